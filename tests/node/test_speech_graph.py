"""A voice's network is cut in three: what the pieces make together is what the whole one makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.speech_graph import GraphError, cut
from cxp2p_node.engines.speech_voice import CutVoice, Recording, Stop, WholeVoice, load
from cxp2p_node.models.voice import voice_facts
from tiny_voice import FRAMES_PER_PHONEME, HOP, node, settings_of, tiny_network, write_tiny_voice

SILENT = {"noise_scale": 0, "length_scale": 1, "noise_w": 0}
SENTENCE = "Hello there, my friend."
TINY = tiny_network()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_voice(tmp_path / "tiny.onnx", settings_of(inference=SILENT))


def test_the_pieces_make_what_the_whole_makes(path: Path) -> None:
    """Without noise, of which the whole one draws its own."""
    stop, settings = Stop(), voice_facts(path).settings
    pieces = load(path, 1)
    (cut_one,) = pieces.shapes(SENTENCE, 1.0, stop)
    (whole,) = WholeVoice(settings, path, 1).shapes(SENTENCE, 1.0, stop)

    assert isinstance(pieces, CutVoice)
    assert isinstance(whole, Recording)
    sound = cut_one.sound(0, cut_one.frames, stop)
    assert sound.size == cut_one.frames * HOP
    assert np.abs(sound).max() > 0.1
    assert np.allclose(sound, whole.sound(0, whole.frames, stop), atol=1e-5)


@pytest.mark.parametrize("step", [1, 7, 50])
def test_sound_can_be_made_part_by_part(path: Path, step: int) -> None:
    """Whatever the parts are: each is computed with the frames around it."""
    stop = Stop()
    (sentence,) = load(path, 1).shapes(SENTENCE, 1.0, stop)
    frames = sentence.frames
    parts = [sentence.sound(begin, min(begin + step, frames), stop) for begin in range(0, frames, step)]

    assert np.allclose(np.concatenate(parts), sentence.sound(0, frames, stop), atol=1e-5)


def test_a_text_always_sounds_the_same(tmp_path: Path) -> None:
    """With noise: a seed is made of the text, and another text has another one."""
    path = write_tiny_voice(tmp_path / "tiny.onnx")
    stop, said = Stop(), []
    for threads in (1, 2):
        (sentence,) = load(path, threads).shapes(SENTENCE, 1.0, stop)
        said.append(sentence.sound(0, sentence.frames, stop))
    (still,) = load(write_tiny_voice(tmp_path / "still.onnx", settings_of(inference=SILENT)), 1).shapes(
        SENTENCE, 1.0, stop
    )

    assert np.array_equal(said[0], said[1])
    assert not np.allclose(said[0], still.sound(0, still.frames, stop), atol=0.01)


def test_what_is_cut_names_what_goes_in_and_comes_out() -> None:
    """And the last piece has one dimension more, if only operations are in it that stay the same."""
    pieces = cut(memoryview(TINY))

    assert set(pieces.timing.inputs) == {"input", "scales", pieces.length_noise}
    assert set(pieces.frames.inputs) == {"scales", pieces.frame_noise, *pieces.timing.outputs}
    assert pieces.samples.inputs == pieces.frames.outputs
    assert pieces.flat
    extra = node("Neg", ["sound"], ["other"])
    odd = cut(memoryview(tiny_network(extra=[extra]).replace(b"\n\x05sound\n\x03mid", b"\n\x05other\n\x03mid")))
    assert not odd.flat


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (tiny_network(noises=1), "noise that depends on other noise"),
        (tiny_network(noises=0), "noise that depends on other noise"),
        (tiny_network(decoder="other.weight"), "a layer with dec.conv_pre.weight"),
        (b"", "the field 7"),
        (b"RIFF....WAVE", "no ONNX file"),
        (TINY[:-1], "not whole"),
    ],
)
def test_what_cannot_be_cut_is_told(network: bytes, why: str) -> None:
    with pytest.raises(GraphError, match=why):
        cut(memoryview(network))


@given(st.integers(0, len(TINY) - 1), st.integers(0, 255))
def test_no_bytes_break_it(place: int, byte: int) -> None:
    """It is cut, or refused: a stranger's file raises nothing else."""
    damaged = bytearray(TINY)
    damaged[place] = byte
    try:
        cut(memoryview(damaged))
    except GraphError:
        return


def test_a_voice_that_cannot_be_cut_speaks_all_the_same(tmp_path: Path) -> None:
    """Sentence by sentence then."""
    stop = Stop()
    voice = load(write_tiny_voice(tmp_path / "odd.onnx", network=tiny_network(noises=1)), 1)
    (sentence,) = voice.shapes(SENTENCE, 1.0, stop)

    assert isinstance(voice, WholeVoice)
    assert sentence.frames % FRAMES_PER_PHONEME == 0
    assert sentence.sound(0, sentence.frames, stop).size == sentence.frames * HOP
