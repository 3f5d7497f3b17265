"""Records what NVIDIA's own Python client sends, and what a server answers by Triton's published protos.

    python scripts/golden/triton_messages.py CLIENT COMMON

CLIENT and COMMON are checkouts of triton-inference-server/client and triton-inference-server/common. Needs grpcio-tools
and numpy. Writes test/fixtures/triton/.
"""

import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
from grpc_tools import protoc

OUT = Path(__file__).resolve().parents[2] / "test" / "fixtures" / "triton"


def load_client(client: Path, common: Path):
    """NVIDIA's client from its sources, with the stubs that its wheel brings, and without its HTTP library."""
    build = Path(tempfile.mkdtemp())
    protos = common / "protobuf"
    names = [str(protos / f"{name}.proto") for name in ("grpc_service", "model_config")]
    assert protoc.main(["protoc", f"-I{protos}", f"--python_out={build}", f"--grpc_python_out={build}", *names]) == 0
    sys.path.insert(0, str(build))
    sys.path.insert(0, str(client / "src" / "python" / "library"))
    import grpc_service_pb2
    import grpc_service_pb2_grpc
    import model_config_pb2

    sys.modules["tritonclient.grpc.service_pb2"] = grpc_service_pb2
    sys.modules["tritonclient.grpc.service_pb2_grpc"] = grpc_service_pb2_grpc
    sys.modules["tritonclient.grpc.model_config_pb2"] = model_config_pb2
    compact = types.ModuleType("rapidjson")
    compact.dumps = lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    compact.loads = json.loads
    sys.modules["rapidjson"] = compact
    sys.modules.setdefault("geventhttpclient", types.ModuleType("geventhttpclient")).HTTPClient = object
    sys.modules["geventhttpclient.url"] = types.ModuleType("geventhttpclient.url")
    sys.modules["geventhttpclient.url"].URL = object
    sys.modules["geventhttpclient.response"] = types.ModuleType("geventhttpclient.response")
    sys.modules["gevent"] = types.ModuleType("gevent")
    sys.modules["gevent"].pool = types.ModuleType("gevent.pool")
    sys.modules["gevent.pool"] = sys.modules["gevent"].pool
    return grpc_service_pb2


TENSORS = [
    ("ids", "UINT32", np.array([[1, 2, 3], [4, 5, 4294967295]], np.uint32)),
    ("seeds", "UINT64", np.array([[0], [18446744073709551615]], np.uint64)),
    ("words", "INT32", np.array([[[0], [-1]], [[7], [1]]], np.int32)),
    ("temperature", "FP32", np.array([[1.0], [0.7]], np.float32)),
    ("flags", "BOOL", np.array([[True], [False]], bool)),
    ("texts", "BYTES", np.array([["今日は".encode()], [b""]], np.object_)),
    ("half", "FP16", np.array([0.5, -2], np.float16)),
    ("double", "FP64", np.array([0.1], np.float64)),
    ("small", "INT8", np.array([-1, 2], np.int8)),
    ("unsigned", "UINT8", np.array([255], np.uint8)),
    ("short", "INT16", np.array([-300], np.int16)),
    ("long", "INT64", np.array([-9007199254740993], np.int64)),
]


def main() -> None:
    pb = load_client(Path(sys.argv[1]), Path(sys.argv[2]))
    import tritonclient.grpc._infer_input as grpc_input
    import tritonclient.grpc._requested_output as grpc_output
    import tritonclient.grpc._utils as grpc_utils
    import tritonclient.http._infer_input as http_input
    import tritonclient.http._requested_output as http_output
    import tritonclient.http._utils as http_utils

    OUT.mkdir(parents=True, exist_ok=True)

    def inputs(module):
        made = []
        for name, datatype, array in TENSORS:
            one = module.InferInput(name, list(array.shape), datatype)
            one.set_data_from_numpy(array)
            made.append(one)
        return made

    common = dict(
        sequence_id=0, sequence_start=False, sequence_end=False, priority=0, timeout=None
    )
    for name, outputs in (("all", []), ("some", ["output_ids", "sequence_length"])):
        request = grpc_utils._get_inference_request(
            model_name="fastertransformer",
            inputs=inputs(grpc_input),
            model_version="",
            request_id="7",
            outputs=[grpc_output.InferRequestedOutput(each) for each in outputs],
            parameters=None,
            **common,
        )
        (OUT / f"request-{name}.grpc").write_bytes(request.SerializeToString(deterministic=True))
        body, json_size = http_utils._get_inference_request(
            inputs=inputs(http_input),
            request_id="7",
            outputs=[http_output.InferRequestedOutput(each) for each in outputs],
            custom_parameters=None,
            **common,
        )
        (OUT / f"request-{name}.http").write_bytes(json_size.to_bytes(4, "little") + body)

    response = pb.ModelInferResponse(model_name="fastertransformer", model_version="1", id="7")
    response.parameters["triton_final_response"].bool_param = True
    for name, datatype, array in TENSORS:
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = http_utils_bytes(array) if datatype == "BYTES" else array.tobytes()
        response.raw_output_contents.append(raw)
    write("response-raw", response)

    typed = pb.ModelInferResponse(model_name="m", model_version="1")
    fields = {
        "UINT32": "uint_contents",
        "UINT64": "uint64_contents",
        "INT32": "int_contents",
        "FP32": "fp32_contents",
        "BOOL": "bool_contents",
        "BYTES": "bytes_contents",
        "FP64": "fp64_contents",
        "INT8": "int_contents",
        "UINT8": "uint_contents",
        "INT16": "int_contents",
        "INT64": "int64_contents",
    }
    for name, datatype, array in TENSORS:
        if datatype not in fields:
            continue
        output = typed.outputs.add(name=name, datatype=datatype, shape=array.shape)
        getattr(output.contents, fields[datatype]).extend(array.flatten().tolist())
    write("response-typed", typed)
    write("stream-error", pb.ModelStreamInferResponse(error_message="no such model", infer_response={"id": "9"}))

    config = pb.ModelConfigResponse()
    model = config.config
    model.name, model.backend, model.max_batch_size = "fastertransformer", "fastertransformer", 1024
    model.input.add(name="input_ids", data_type="TYPE_UINT32", dims=[-1])
    length = model.input.add(name="start_id", data_type="TYPE_UINT32", dims=[1], optional=True)
    length.reshape.shape.extend([])
    model.input.add(name="QUERY", data_type="TYPE_STRING", dims=[-1])
    model.output.add(name="output_ids", data_type="TYPE_UINT32", dims=[-1, -1])
    model.parameters["neox_prefix_tasks"].string_value = "smile=0,polite=1"
    model.parameters["model_type"].string_value = "GPT-NeoX"
    model.model_transaction_policy.decoupled = True
    model.instance_group.add(count=1, kind="KIND_CPU")
    model.version_policy.latest.num_versions = 1
    model.dynamic_batching.preferred_batch_size.append(8)
    write("config", config)

    statistics = pb.ModelStatisticsResponse()
    stats = statistics.model_stats.add(
        name="fastertransformer", version="1", last_inference=1700000000123, inference_count=12, execution_count=3
    )
    stats.inference_stats.success.count, stats.inference_stats.success.ns = 3, 4_500_000_000
    stats.inference_stats.queue.ns = 1_000_000
    stats.memory_usage.add(type="GPU", id=0, byte_size=5)
    write("statistics", statistics)


def http_utils_bytes(array) -> bytes:
    from tritonclient.utils import serialize_byte_tensor

    return serialize_byte_tensor(array).item()


def write(name: str, message) -> None:
    (OUT / f"{name}.grpc").write_bytes(message.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
