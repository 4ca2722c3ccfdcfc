"""Losses with class centers, their settings by name."""

from __future__ import annotations

from typing import Any

from denseface.models import losses
from denseface.models.adaface import adaface_margin

import mxnet as mx


def softmax(embedding: mx.sym.Symbol, size: int, classes: int, **settings: Any) -> mx.sym.Symbol:
    centers = losses.ClassCenters(classes, size, **_taken(settings, losses.ClassCenters._fields))
    return losses.softmax(embedding, centers, **settings)


def margin_softmax(embedding: mx.sym.Symbol, size: int, classes: int, **settings: Any) -> mx.sym.Symbol:
    centers = losses.ClassCenters(classes, size, **_taken(settings, losses.ClassCenters._fields))
    margin = losses.combined_margin(**_taken(settings, ("m1", "m2", "m3")))
    return losses.cosine_softmax(embedding, centers, margin=margin, **settings)


def adaface(embedding: mx.sym.Symbol, size: int, classes: int, **settings: Any) -> mx.sym.Symbol:
    centers = losses.ClassCenters(classes, size, **_taken(settings, losses.ClassCenters._fields))
    margin = adaface_margin(embedding, **_taken(settings, ("m", "h", "t_alpha")))
    return losses.cosine_softmax(embedding, centers, margin=margin, **settings)


def _taken(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings.pop(name) for name in names if name in settings}
