"""Names of diffusers' pipelines that impasto does not serve, for error texts."""

from __future__ import annotations

# By how the class name begins. Where one begins another, the longer comes first.
FAMILIES = {
    "AnimateDiff": "AnimateDiff, which makes video",
    "AuraFlow": "AuraFlow",
    "Chroma": "Chroma",
    "CogVideoX": "CogVideoX, which makes video",
    "CogView": "CogView",
    "Flux2": "FLUX.2",
    "Flux": "FLUX",
    "HunyuanVideo": "HunyuanVideo, which makes video",
    "Hunyuan": "Hunyuan-DiT",
    "IF": "DeepFloyd IF",
    "Kandinsky": "Kandinsky",
    "Kolors": "Kolors",
    "LTX": "LTX, which makes video",
    "Lumina": "Lumina",
    "Mochi": "Mochi, which makes video",
    "PixArt": "PixArt",
    "QwenImage": "Qwen-Image",
    "Sana": "Sana",
    "StableCascade": "Stable Cascade",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableUnCLIP": "unCLIP, whose UNet takes images",
    "StableVideoDiffusion": "Stable Video Diffusion, which makes video",
    "TextToVideo": "a text-to-video model",
    "Wan": "Wan, which makes video",
    "Wuerstchen": "Würstchen",
    "ZImage": "Z-Image",
}
# By what the class name contains: a served backbone, but its UNet takes more than the sample.
KINDS = {
    "Inpaint": "inpainting, whose UNet takes the mask and the masked picture beside the sample",
    "InstructPix2Pix": "InstructPix2Pix, whose UNet takes the picture to be edited beside the sample",
    "Depth2Img": "depth-to-image, whose UNet takes a depth map beside the sample",
    "Upscale": "an upscaler, whose UNet takes the picture to be enlarged beside the sample",
    "Adapter": "a T2I-Adapter's, which impasto does not apply",
}


def called(pipeline: str) -> str:
    """What this pipeline is, in words; empty when unknown."""
    known = (name for start, name in FAMILIES.items() if pipeline.startswith(start))
    return next(known, "") or next((name for word, name in KINDS.items() if word in pipeline), "")
