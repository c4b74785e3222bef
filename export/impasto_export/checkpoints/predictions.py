"""What a single file's UNet predicts, by the user, a marker among its tensors, its header, or NAME.yaml beside it."""

from __future__ import annotations

from impasto_export.architecture import Json
from impasto_export.checkpoints import schedule
from impasto_export.checkpoints.checkpoint import Said
from impasto_export.checkpoints.fitting import V_PREDICTION, ZERO_SNR
from impasto_export.checkpoints.sidecar import Sidecar
from impasto_export.errors import CheckpointError
from impasto_export.weights import Header

SHOWN = 40
# ModelSpec's key, ComfyUI's, and kohya's; of the last "False" tells nothing, as a LoRA's trainer writes it, too.
KINDS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
PREDICTIONS: dict[str, dict[str, str]] = {
    "modelspec.prediction_type": KINDS,
    "modelspec.predict_key": KINDS,
    "ss_v_parameterization": {"True": "v_prediction", "False": "", "None": ""},
}
KOHYA_SNR = "ss_zero_terminal_snr"


def of(header: Header, stated: Json, name: str, config: Sidecar | None, said: Said) -> str:
    """What the UNet predicts: as the user says, or the file or NAME.yaml, or all of the architecture do."""
    chosen = schedule.chosen("prediction", said.prediction, "prediction_type")
    _check_snr(header, config)
    if V_PREDICTION in header.tensors and chosen not in (None, "v_prediction"):
        raise CheckpointError(f"--prediction: got {chosen!r}, and the file's {V_PREDICTION} says v_prediction")
    if chosen:
        return chosen
    told = _told(header, config)
    if len({*told.values()}) > 1:
        spoken = ", ".join(f"{where} says {value}" for where, value in told.items())
        raise CheckpointError(f"{header.path}: {spoken}; say --prediction epsilon or v_prediction")
    prediction = next(iter(told.values()), stated["prediction"])
    if prediction is None:
        problem = f"a single file of {name} does not say what its UNet predicts"
        fix = "say --prediction v_prediction (as the 768 px ones do) or --prediction epsilon (the 512 px ones, turbo)"
        raise CheckpointError(f"{header.path}: {problem}; {fix}")
    return str(prediction)


def _check_snr(header: Header, config: Sidecar | None) -> None:
    """Raises CheckpointError for what says that it was trained to zero SNR."""
    where = ZERO_SNR if ZERO_SNR in header.tensors else None
    if header.metadata.get(KOHYA_SNR, "").lower() == "true":
        where = f"its header's {KOHYA_SNR}"
    if config and config.zero_snr():
        where = f"{config.path.name}'s {config.zero_snr()}"
    if where:
        problem = f"{where} says that it was trained to zero SNR"
        raise CheckpointError(f"{header.path}: {problem}; impasto's samplers do not know it")


def _told(header: Header, config: Sidecar | None) -> dict[str, str]:
    """Who says what the UNet predicts. Raises CheckpointError for what no sampler knows."""
    found = {f"its {V_PREDICTION}": "v_prediction"} if V_PREDICTION in header.tensors else {}
    for key, meanings in PREDICTIONS.items():
        text = header.metadata.get(key)
        if text and text not in meanings:
            problem = f"its header's {key} is {text[:SHOWN]!r}, which impasto's samplers do not know"
            raise CheckpointError(f"{header.path}: {problem}; if it isn't so, say --prediction epsilon or v_prediction")
        if text and meanings[text]:
            found[f"its header's {key}"] = meanings[text]
    stated = config.prediction() if config else None
    return {**found, config.path.name: stated} if config and stated else found
