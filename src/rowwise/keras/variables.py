"""The variables on a table, of the backend that Keras runs on."""

import importlib

import keras

_own = importlib.import_module(f"rowwise.keras.{keras.backend.backend()}.variable")

AccumulatorVariable = _own.AccumulatorVariable
SlotVariable = _own.SlotVariable
TableVariable = _own.TableVariable
