PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: proto
proto: ## Regenerate the gRPC stubs (committed; `make check` verifies they are unchanged)
	$(BIN)/python -m grpc_tools.protoc -Iprotocol --python_out=protocol --grpc_python_out=protocol \
	  --mypy_out=protocol --mypy_grpc_out=protocol protocol/sled_protocol/v1/verifier.proto
