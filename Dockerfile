# The bundle and what it runs with. On a CPU:
#   docker build -t cps4 .
#   docker run --rm -v "$PWD/scans:/scans:ro" -v "$PWD/out:/out" --user "$(id -u)" \
#     cps4 run inference --config_file configs/inference.yaml --input_dir /scans --output_dir /out
# On a GPU, with `docker run --gpus all`: PyPI's torch brings CUDA's libraries along, so that the base need not have them,
#   docker build -t cps4 --build-arg TORCH_INDEX=https://pypi.org/simple .
# and --build-arg BASE=IMAGE takes another base, as one with CUDA; it must have Python 3.11 with venv.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /bundle

COPY requirements.txt ./
RUN python3 -m venv /opt/venv
# torch first and by itself, so that the rest does not replace it
RUN python -m pip install --extra-index-url "$TORCH_INDEX" "$(grep '^torch==' requirements.txt)"
RUN python -m pip install -r requirements.txt

COPY LICENSE metadata.json ./
COPY docs/data_license.txt docs/
COPY configs configs
COPY scripts scripts
COPY models/model.pt models/model.json models/

# training writes to models/prompt, runs/ and cache/, inference to eval/, unless told otherwise
RUN useradd --create-home --uid 1000 cps4 && mkdir runs cache eval && chown -R cps4 . models runs cache eval
USER 1000
ENTRYPOINT ["python", "-m", "monai.bundle"]
CMD ["--help"]
