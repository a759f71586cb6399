"""Opens exported models with onnx, onnxruntime, safetensors and numpy.

One directory a model: model.onnx, weights.safetensors, weights.npy, and case.json
with features (null is missing), the predictions of the trained network by output,
and its tensors. Exits with an error at the first difference.
"""
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

worst = {}
seen = 0
for directory in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    case = json.loads((directory / "case.json").read_text())
    dtype = {"float32": np.float32, "float64": np.float64}[case["dtype"]]
    onnx.checker.check_model(onnx.load(directory / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    x = np.array([[np.nan if v is None else v for v in row] for row in case["features"]], dtype=dtype)
    names = [o.name for o in session.get_outputs()]
    assert sorted(names) == sorted(case["outputs"]), (directory.name, names)
    for name, got in zip(names, session.run(None, {"features": x})):
        want = np.array(case["outputs"][name])
        assert got.shape == want.shape and got.dtype == dtype, (directory.name, name, got.shape, want.shape, got.dtype)
        difference = float(np.max(np.abs(got - want) / (1 + np.abs(want))))
        assert difference < case["tolerance"], (directory.name, name, difference)
        worst[case["dtype"]] = max(worst.get(case["dtype"], 0), difference)
    tensors = load_file(directory / "weights.safetensors")
    flat = np.load(directory / "weights.npy")
    assert flat.dtype == dtype
    at = 0
    for name, shape in case["tensors"]:
        t = tensors.pop(name)
        assert list(t.shape) == shape and t.dtype == dtype, (directory.name, name, t.shape, shape)
        assert np.array_equal(t.ravel(), flat[at : at + t.size]), (directory.name, name)
        at += t.size
    assert at == flat.size and set(tensors) == {"input.mean", "input.sd"}, (directory.name, at, list(tensors))
    assert all(t.shape == (x.shape[1],) for t in tensors.values())
    seen += 1
assert seen == int(sys.argv[2]), seen
print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}: {seen} models; largest difference {worst}")
