"""Eval mode while a model is sampled from: nested, by several threads, after an error."""

import threading

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
