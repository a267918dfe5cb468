"""Eval mode while a model is sampled from: nested, by several threads, after an error."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from ordkernels.nn._eval_mode import eval_mode


def test_the_mode_before_is_restored_by_the_last_of_nested_calls():
    model = nn.Dropout()
    with eval_mode(model):
        with eval_mode(model):
            assert not model.training
        assert not model.training
    assert model.training


def test_a_second_thread_stays_in_eval_mode_after_the_first_has_left():
    model, entered, leave, seen = nn.Dropout(), threading.Event(), threading.Event(), []

    def second():
        with eval_mode(model):
            entered.set()
            leave.wait(20)
            seen.append(model(torch.ones(100)).eq(1).all().item())

    thread = threading.Thread(target=second)
    with eval_mode(model):
        thread.start()
        assert entered.wait(20)
    leave.set()
    thread.join()
    assert seen == [True]
    assert model.training


def test_a_model_in_eval_mode_stays_so_and_errors_restore():
    model = nn.Dropout().eval()
    with eval_mode(model):
        pass
    assert not model.training
    model.train()
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert model.training


def test_a_part_that_is_frozen_stays_so():
    """As a pretrained encoder in eval mode within a model that trains; and the reverse."""
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model[1].eval()
    with eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == [True, True, False, False, False]
    model.eval()
    model[1][0].train()
    with eval_mode(model), eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == [False, False, False, True, False]


def test_a_model_is_freed():
    model = nn.Sequential(nn.Dropout())
    gone = weakref.ref(model[0])
    with eval_mode(model):
        pass
    del model
    gc.collect()
    assert gone() is None
