"""Stubs of Triton's published protos, and NVIDIA's own Python client, against a server of this package.

    python test/clients/triton.py CLIENT COMMON HOST:PORT

CLIENT and COMMON are checkouts of triton-inference-server/client and triton-inference-server/common; HOST:PORT is the
gRPC address of a PrefixServer with a prefix `smile` and `fasterTransformer: { tasks: ['smile'] }`. Needs grpcio-tools
and numpy.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("recording", ROOT / "scripts" / "golden" / "triton.py")
recording = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recording)
pb = recording.load_client(Path(sys.argv[1]), Path(sys.argv[2]))

import grpc
import grpc_service_pb2_grpc
import numpy as np
import tritonclient.grpc as triton

address = sys.argv[3]
stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))


def refusal(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    raise AssertionError("expected an error")


assert stub.ServerReady(pb.ServerReadyRequest()).ready
assert stub.ModelReady(pb.ModelReadyRequest(name="smile")).ready
request = pb.ModelInferRequest(model_name="smile", id="a")
text = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
text.contents.bytes_contents.append("今日は".encode())
request.parameters["max_tokens"].int64_param = 16
request.parameters["temperature"].double_param = 0
answer = stub.ModelInfer(request)
assert answer.id == "a" and len(answer.raw_output_contents) == len(answer.outputs)
whole = answer.raw_output_contents[0][4:].decode()
pieces = [one.infer_response.raw_output_contents[0][4:].decode() for one in stub.ModelStreamInfer(iter([request]))]
assert len(pieces) > 1 and "".join(pieces) == whole
assert refusal(lambda: stub.ModelInfer(pb.ModelInferRequest(model_name="x"))) == "NOT_FOUND"
assert refusal(lambda: stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())) == "UNIMPLEMENTED"
config = stub.ModelConfig(pb.ModelConfigRequest(name="fastertransformer")).config
assert config.parameters["neox_prefix_tasks"].string_value == "smile=0"

client = triton.InferenceServerClient(address)


def tensor(name, array, datatype):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


inputs = [
    tensor("input_ids", np.array([[417, 92, 8], [417, 92, 3]], np.uint32), "UINT32"),
    tensor("input_lengths", np.array([[3], [2]], np.uint32), "UINT32"),
    tensor("request_output_len", np.array([[8], [8]], np.uint32), "UINT32"),
    tensor("prompt_learning_task_name_ids", np.zeros((2, 1), np.uint32), "UINT32"),
    tensor("is_return_log_probs", np.ones((2, 1), bool), "BOOL"),
]
result = client.infer("fastertransformer", inputs)
assert result.as_numpy("output_ids").shape == (2, 1, 11)
assert result.as_numpy("cum_log_probs").shape == (2, 1)
assert (result.as_numpy("output_ids")[:, 0, :2] == [417, 92]).all()
print("ok")
