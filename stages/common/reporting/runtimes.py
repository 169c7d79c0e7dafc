"""The runtimes that every variant is timed in, by their titles in tables and pictures."""

RUNTIMES = {"opencv": "OpenCV DNN", "onnxruntime": "ONNX Runtime"}
