"""What a single file's UNet predicts, told by the user, a marker tensor, its header, or NAME.yaml beside it."""

from __future__ import annotations

from impasto_export.architecture import Json
from impasto_export.checkpoints import schedule
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.checkpoints.fitting import V_PREDICTION, ZERO_SNR
from impasto_export.checkpoints.sidecar import Sidecar
from impasto_export.errors import CheckpointError
from impasto_export.weights import Header

SHOWN = 40
# ModelSpec's key, ComfyUI's, kohya's. kohya's "False" tells nothing, since a LoRA's trainer writes it, too.
KINDS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
PREDICTIONS: dict[str, dict[str, str]] = {
    "modelspec.prediction_type": KINDS,
    "modelspec.predict_key": KINDS,
    "ss_v_parameterization": {"True": "v_prediction", "False": "", "None": ""},
}
KOHYA_SNR = "ss_zero_terminal_snr"


def of(header: Header, stated: Json, name: str, config: Sidecar | None, said: Said) -> str:
    """What the UNet predicts: by the user, else the file or NAME.yaml, else the architecture's one kind. Raises
    CheckpointError where they contradict one another, or none tells."""
    chosen = schedule.chosen("prediction", said.prediction, "prediction_type")
    _check_snr(header, config)
    if V_PREDICTION in header.tensors and chosen not in (None, "v_prediction"):
        problem = f"the file's {V_PREDICTION} says v_prediction"
        raise CheckpointError(f"--prediction: got {chosen!r}, but {problem}; leave it out")
    if chosen:
        return chosen
    told = _told(header, config)
    if len({*told.values()}) > 1:
        spoken = ", ".join(f"{where} says {value}" for where, value in told.items())
        raise CheckpointError(f"{header.path}: {spoken}; give --prediction epsilon or v_prediction")
    prediction = next(iter(told.values()), stated["prediction"])
    if prediction is None:
        problem = f"a single file of {name} does not say what its UNet predicts"
        fix = "give --prediction v_prediction (768 px models) or --prediction epsilon (512 px models, Turbo)"
        raise CheckpointError(f"{header.path}: {problem}; {fix}")
    return str(prediction)


def _check_snr(header: Header, config: Sidecar | None) -> None:
    """Raises CheckpointError where the file or NAME.yaml says that it was trained to zero SNR."""
    where = ZERO_SNR if ZERO_SNR in header.tensors else None
    if header.metadata.get(KOHYA_SNR, "").lower() == "true":
        where = f"its header's {KOHYA_SNR}"
    if config and config.zero_snr():
        where = f"{config.path.name}'s {config.zero_snr()}"
    if where:
        problem = f"{where} says that it was trained to zero SNR"
        raise CheckpointError(f"{header.path}: {problem}; impasto's samplers do not know it")


def _told(header: Header, config: Sidecar | None) -> dict[str, str]:
    """Source -> what it says that the UNet predicts. Raises CheckpointError for a kind that no sampler knows."""
    found = {f"its {V_PREDICTION}": "v_prediction"} if V_PREDICTION in header.tensors else {}
    for key, meanings in PREDICTIONS.items():
        text = header.metadata.get(key)
        if text and text not in meanings:
            problem = f"its header's {key} is {text[:SHOWN]!r}, which impasto's samplers do not know"
            raise CheckpointError(f"{header.path}: {problem}; if that is wrong, give --prediction")
        if text and meanings[text]:
            found[f"its header's {key}"] = meanings[text]
    stated = config.prediction() if config else None
    return {**found, config.path.name: stated} if config and stated else found
