"""Vertebral levels: tissue type and level, decoding in anatomical order (Viterbi), confidence of level names."""
