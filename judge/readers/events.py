"""Reads TensorBoard's event files with TensorBoard's own reader (pip install tensorboard)."""

from pathlib import Path

from judge.readers.log import Log, by_step, optional, source_of

FORMAT = "TensorBoard event file"


def recognises(path: Path) -> bool:
    return path.is_file() and ".tfevents." in path.name


def read(path: Path) -> list[Log]:
    """Return one log of all scalars, in the order of their writing. Values are float32, as TensorBoard keeps them.

    `wall_time` is in seconds since the first event: evaluation and everything else is in it.
    """
    accumulator = optional("tensorboard.backend.event_processing.event_accumulator", f"{path} needs tensorboard")
    tensors = optional("tensorboard.util.tensor_util", f"{path} needs tensorboard")
    everything = {"scalars": 0, "tensors": 0}  # by default it keeps a sample
    try:
        events = accumulator.EventAccumulator(str(path), size_guidance=everything, purge_orphaned_data=False)
        events.Reload()
        tags = events.Tags()
        logged = [(e.wall_time, e.step, tag, e.value) for tag in tags["scalars"] for e in events.Scalars(tag)]
        for tag in tags["tensors"]:  # where TensorFlow 2 keeps its scalars
            arrays = [(e.wall_time, e.step, tensors.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
            logged += [(wall, step, tag, float(a)) for wall, step, a in arrays if a.ndim == 0 and a.dtype.kind in "fiu"]
    except Exception as error:  # whatever a broken record makes it raise
        why = " ".join(str(error).split())[:80] or type(error).__name__
        raise ValueError(f"{path} is no event file that TensorBoard reads ({why})") from None
    if not logged:
        raise ValueError(f"{path} holds no scalar: give the event file of a run that logged its loss")
    return [Log(str(path), source_of(path, FORMAT), by_step(logged))]
