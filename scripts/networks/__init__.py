"""Networks: the segmentation network, the encoders of stage 1 and the model that joins them."""
