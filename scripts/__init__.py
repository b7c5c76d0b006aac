"""CPS4: class-prompt driven semi-supervised segmentation of spine MR."""
