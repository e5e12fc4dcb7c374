"""Promotion: a probe becomes the head of a network that is tuned with it, and starts exactly where the probe stopped.

Linear probing, then fine-tuning (LP-FT): Kumar et al., *Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution*, ICLR 2022.
"""

from featurepipe.finetuning.depths import check_depth, layers_of, trainable
from featurepipe.finetuning.recipes import Recipe

__all__ = ["Recipe", "check_depth", "layers_of", "trainable"]
