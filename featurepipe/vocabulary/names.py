"""Names that the command line offers and the rooms below know; tests compare these lists with what there is."""

KINDS = {  # kind of probe → the name of its strength
    "logistic": "C",
    "ridge": "alpha",
    "svm": "C",
    "lda": "shrinkage",
    "centroid": None,
    "knn": "n_neighbors",
    "approximate-knn": "n_neighbors",
    "mlp": "alpha",
    "attentive": "alpha",
}
ON_DEVICES = ("logistic", "svm", "attentive")  # kinds that are fitted on a GPU too
MULTI_LABEL = "multi-label"  # what a probe of sets of labels is called
PROTOCOLS = (
    "featurepipe",
    "clip",
    "dinov2-logreg",
    "dinov2-knn",
    "kornblith",
    "vissl-svm",
    "vissl-lowshot-svm",
    "bigvision-fewshot",
    "lpft",
)
MEDIA = ("image", "sound", "text", "video")  # what a sample is made of
# the hand-made baseline of each medium, and what it is in prose
HANDMADE = {"pixels": "raw pixels", "mfcc": "MFCC", "tfidf": "TF-IDF", "color-motion": "colours and motion"}
SEMI = {"self_training": "self-training", "label_spreading": "label spreading"}
TEXT_STARTS = {  # methods with few labels that start from class names
    "zero_shot": "zero-shot",
    "tip_adapter": "Tip-Adapter",
    "tip_adapter_f": "Tip-Adapter-F",
    "lp_plus_plus": "LP++",
    "wise_ft": "WiSE-FT",
}
SEGMENTATION_KINDS = ("auto", "ridge", "lda", "logistic")
ORDERS = ("typical", "unsure")  # of samples to label
METRICS = ("top1", "balanced_accuracy", "map")
BASELINES = ("none", "simple", "full")
DECODERS = ("torchvision", "pillow", "draft")
CROP_MODES = ("center", "squash", "border")
PRECISIONS = ("fp32", "bf16", "fp16")
SWITCH = ("auto", "on", "off")  # of compiling, and of caching activations
OPTIMIZERS = ("adamw", "sgd")
AUGMENTATIONS = ("standard", "crop", "none")
PROJECTIONS = ("pca", "tsne")  # maps of embeddings
OBJECTIVES = ("supervised", "contrastive", "vicreg", "autoencoder", "colorize", "sound", "distill")  # of pretraining
DISTANCES = ("cosine", "mse")  # of distillation
SOUND_TARGETS = ("clusters", "bits")
