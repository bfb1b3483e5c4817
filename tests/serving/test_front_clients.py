"""The native front and what others have written: a client in Go generated from the protos, grpcurl, and h2spec.

Tools are built once into `.bench/front` (ignored by git). A test whose tools are not to be had here says so.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bandits.config import TaskPolicy
from protos.log_files import DECISIONS
from serving.server import Server
from tests.serving.kit import ROOT, native_only, records_of, select_request, serving_from

pytestmark = [native_only, pytest.mark.slow]
TOOLS = ROOT / ".bench" / "front"
GRPC_GO, PROTOC_GEN_GO, PROTOC_GEN_GO_GRPC = "v1.75.0", "v1.36.8", "v1.5.1"
# A client of the generated package: answers are printed as JSON, one a line; then many calls at once, of which all must be answered.
GO_CLIENT = """
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	pb "slateloop.test/client/pb"
)

func main() {
	body, _ := hex.DecodeString(os.Args[2])
	request := &pb.SelectRequest{}
	check(proto.Unmarshal(body, request))
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	client := pb.NewPolicyServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var answered atomic.Int64
	var group sync.WaitGroup
	for worker := 0; worker < 16; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for call := 0; call < 50; call++ {
				answer, err := client.Select(ctx, request)
				check(err)
				if answer.Logged && len(answer.Slots) == 3 {
					answered.Add(1)
				}
			}
		}()
	}
	group.Wait()
	_, err = client.Select(ctx, &pb.SelectRequest{Task: "shoppe", UnitId: "u"})
	details := status.Convert(err).Details()
	stream, err := client.SelectStream(ctx)
	check(err)
	check(stream.Send(request))
	result, err := stream.Recv()
	check(err)
	check(stream.CloseSend())
	if result.GetResponse() == nil || status.Code(err) != codes.OK {
		panic("the stream has no answer")
	}
	policy, err := client.GetPolicy(ctx, &pb.GetPolicyRequest{Task: "shop"})
	check(err)
	_, refused := client.Select(ctx, &pb.SelectRequest{Task: "shoppe", UnitId: "u"})
	fmt.Printf("{\\"answered\\": %d, \\"refused\\": %q, \\"details\\": %d, \\"policy\\": %q}\\n",
		answered.Load(), status.Code(refused).String(), len(details), policy.Policy)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> Iterator[Server]:
    with serving_from(tmp_path_factory.mktemp("clients"), tasks, front="native", reflection=True) as running:
        yield running


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed here")


def run(*command: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder or ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500, check=False
    )


def tool(package: str) -> Path:
    """A program in Go, built once."""
    needs("go")
    path = TOOLS / "bin" / package.partition("@")[0].rpartition("/")[2]
    if not path.exists():
        built = run("go", "install", package, GOBIN=str(path.parent))
        if built.returncode:
            pytest.skip(f"{package} can't be built here: {built.stderr[-300:]}")
    return path


@pytest.fixture(scope="module")
def go_client() -> Path:
    """The client, generated from the protos and built."""
    folder = TOOLS / "client"
    plugins = [tool(f"google.golang.org/protobuf/cmd/protoc-gen-go@{PROTOC_GEN_GO}")]
    plugins.append(tool(f"google.golang.org/grpc/cmd/protoc-gen-go-grpc@{PROTOC_GEN_GO_GRPC}"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "main.go").write_text(GO_CLIENT)
    (folder / "go.mod").write_text(f"module slateloop.test/client\n\ngo 1.23\n\nrequire google.golang.org/grpc {GRPC_GO}\n")
    options = [f"--{kind}_opt=M{name}=slateloop.test/client/pb" for kind in ("go", "go-grpc") for name in protos()]
    outputs = [f"--{kind}_out={folder}" for kind in ("go", "go-grpc")] + [
        f"--{kind}_opt=module=slateloop.test/client" for kind in ("go", "go-grpc")
    ]
    flags = [f"--plugin={plugin}" for plugin in plugins]
    made = run(sys.executable, "-m", "grpc_tools.protoc", "-I.", *flags, *outputs, *options, *protos())
    assert made.returncode == 0, made.stderr
    for command in (("go", "mod", "tidy"), ("go", "build", "-o", "client", ".")):
        built = run(*command, folder=folder, GOFLAGS="-mod=mod")
        assert built.returncode == 0, built.stderr[-2000:]
    return folder / "client"


def protos() -> Sequence[str]:
    return ("protos/events.proto", "protos/policy.proto")


def test_a_client_in_go_generated_from_the_protos_is_answered(go_client: Path, server: Server, shop: TaskPolicy) -> None:
    ended = run(str(go_client), server.address, select_request(shop).SerializeToString().hex())
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert json.loads(ended.stdout) == {"answered": 800, "refused": "NotFound", "details": 1, "policy": "uniform"}
    assert len(records_of(server._decisions._log)) >= 801 and server._decisions._log.name == DECISIONS


def test_grpcurl_lists_describes_and_calls_by_reflection(server: Server, shop: TaskPolicy) -> None:
    grpcurl = str(tool("github.com/fullstorydev/grpcurl/cmd/grpcurl@latest"))
    assert "slateloop.v1.PolicyService" in run(grpcurl, "-plaintext", server.address, "list").stdout
    asked = json.dumps({"task": "shop", "unitId": "u", "context": {"features": {"member": {"flag": True}}}})
    called = run(grpcurl, "-plaintext", "-d", asked, server.address, "slateloop.v1.PolicyService/Select")
    assert called.returncode == 0 and json.loads(called.stdout)["logged"], called.stderr
    refused = run(grpcurl, "-plaintext", "-d", '{"task": "shoppe"}', server.address, "slateloop.v1.PolicyService/Select")
    assert "NotFound" in refused.stderr and "did you mean `shop`" in refused.stderr
    health = run(grpcurl, "-plaintext", "-d", '{"service": "shop"}', server.address, "grpc.health.v1.Health/Check")
    assert '"SERVING"' in health.stdout


# A wrong preface is answered by a reset of the connection, where it expects it to be closed.
EXPLAINED = {"Sends invalid connection preface"}


def test_h2spec_finds_nothing_amiss_but_what_is_explained(server: Server) -> None:
    h2spec = str(tool("github.com/summerwind/h2spec/cmd/h2spec@latest"))
    host, _, port = server.address.rpartition(":")
    ended = run(h2spec, "-h", host, "-p", port, "-o", "5")
    counted = re.search(r"(\d+) tests, (\d+) passed", ended.stdout)
    assert counted is not None and int(counted[1]) > 100, ended.stdout[-4000:]
    assert set(re.findall("\u00d7 \\d+: (.*)", ended.stdout)) <= EXPLAINED, ended.stdout[-4000:]
