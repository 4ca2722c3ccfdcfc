"""ONNX files as networks of MXNet, which can be trained."""
