"""MLServer's custom runtime for ONNX (its own ones are not on the package index). Runs in `.venv-bench` only.

Written to MLServer's guide: NumPy codec in and out, one session with one thread, inline on its loop (parallel workers
are off), which is the fastest shape it has for a model this small.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self._run = session.run
        self._input = session.get_inputs()[0].name
        self._outputs = [session.get_outputs()[0].name]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = NumpyCodec.decode_input(payload.inputs[0])
        (prices,) = self._run(self._outputs, {self._input: tensor})
        output = NumpyCodec.encode_output(name="variable", payload=prices)
        return InferenceResponse(model_name=self.name, outputs=[output])
