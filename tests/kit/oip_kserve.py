"""Calls KServe's own Python client and prints what it gives. Run by the Python of its own environment.

On standard input: `{"url": …, "calls": [{"call": "infer", "model": …, "inputs": [[name, datatype, values]], "binary":
[name], "outputs": [name]}]}`; `binary` has the names of tensors that go and come as binary data.
On standard output: a list with what each call gave, or `{"raised": …}`.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput  # type: ignore[import-not-found]

TYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}


async def main() -> None:
    """Make one call after the other."""
    wish = json.load(sys.stdin)
    said = []
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        for call in wish["calls"]:
            said.append(await make(client, wish["url"], call))  # noqa: PERF401 - one after the other
    json.dump(said, sys.stdout)


async def make(client: Any, url: str, call: dict[str, Any]) -> Any:
    """What one call gives, as JSON can hold it."""
    try:
        match call["call"]:
            case "infer":
                return await infer(client, url, call)
            case "is_model_ready":
                return await client.is_model_ready(url, call["model"])
            case name:
                return await getattr(client, name)(url)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return {"raised": type(error).__name__, "message": str(error)}


async def infer(client: Any, url: str, call: dict[str, Any]) -> Any:
    """Outputs by name: datatype, shape and values."""
    binary = call["binary"]
    inputs = []
    for name, datatype, values in call["inputs"]:
        array = np.array(values, TYPES.get(datatype, datatype.lower()))
        inputs.append(InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=name in binary)
    request = InferRequest(
        call["model"],
        inputs,
        request_id=call.get("id"),
        parameters={"binary_data_output": True} if "outputs" not in call else None,
        request_outputs=[
            RequestedOutput(name, {"binary_data": name in binary})
            for name in call.get("outputs", ())
        ],
    )
    answer = await client.infer(url, request, model_name=call["model"])
    return {
        "id": answer.id,
        "model": answer.model_name,
        "parameters": answer.parameters,
        "outputs": {
            output.name: [output.datatype, output.shape, output.as_numpy().tolist()]
            for output in answer.outputs
        },
    }


asyncio.run(main())
