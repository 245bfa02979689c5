"""What has to hold before a release, row by row, in a running ComfyUI: a table in Markdown leaves on stdout.

Run inside the environment of `python quickstart.py`:
    COMFYUI_PATH=<ComfyUI> python tests/release_checklist.py > docs/release_checklist.md

Rows that the test-suite covers name their test; pytest says whether they hold. The others are measured here, in one
server with the demo model. `comfy` (comfy-cli), `comfy-test` and `uv` are used where they are installed.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import psutil

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO))

import quickstart  # noqa: E402

COMFYUI = Path(os.environ["COMFYUI_PATH"])
PACK = quickstart.PACK_NAME
TRAINER = "GloriaTrainModel"
MAX_IMPORT_SECONDS, MAX_CANCEL_SECONDS, MAX_PLAIN_WIDGETS = 1.0, 2.0, 12
MAX_ARCHIVE_BYTES = 40e6
DEMO_MODEL = "assets/demo_model/"
MAX_MEMORY_GROWTH = 0.05
PUBLIC_IMPORT = re.compile(r"(\.\./)+scripts/(app|api)\.js|\./.*|\.\./lib/.*")
Verdict = tuple[bool | None, str]
"""Whether it holds (None: not looked at here), and what was seen."""


class Running:
    """The server that all rows look at."""

    def __init__(self, server: quickstart.Server, base: Path) -> None:
        self.server = server
        self.base = base
        everything = server.request("/object_info")
        self.nodes = {name: node for name, node in everything.items() if node["python_module"].endswith(PACK)}
        self.workflow = json.loads(quickstart.WORKFLOW.read_text())
        (condition,) = [node for node in self.workflow.values() if node["class_type"] == "GloriaCondition"]
        condition["inputs"]["length"] = 93  # four chunks of the example film are enough
        self.log_at_start = server.log_lines()

    def memory(self) -> int:
        """Bytes of the resident set."""
        return psutil.Process(self.server.process.pid).memory_info().rss

    def inputs(self) -> Iterator[tuple[str, str, list]]:
        for name, node in self.nodes.items():
            for group in ("required", "optional"):
                for key, spec in node["input"].get(group, {}).items():
                    yield name, key, spec

    def run(self, change: dict[str, Any] | None = None, on_message: Callable[[str, dict], None] | None = None) -> str:
        """Queue the CPU workflow with other inputs (`node.input`), wait for its end, and return the last message."""
        workflow = json.loads(json.dumps(self.workflow))
        for target, value in (change or {}).items():
            node, name = target.split(".")
            workflow[node]["inputs"][name] = value
        with contextlib.closing(self.server.messages("checklist")) as messages:
            next(messages)
            self.server.request("/prompt", {"prompt": workflow, "client_id": "checklist"})
            for kind, data in messages:
                if on_message:
                    on_message(kind, data)
                if kind in ("execution_success", "execution_error", "execution_interrupted"):
                    return kind
        return "closed"


# --- what the object info says ---------------------------------------------------------------------------------------


def loads(running: Running) -> Verdict:
    bad = [line for line in running.log_at_start if "IMPORT FAILED" in line or "Cannot import" in line]
    return not bad, "no import failed" if not bad else "; ".join(bad)


def node_count(running: Running) -> Verdict:
    frozen = json.loads((REPO / "tests/nodes/contract.json").read_text())
    return running.nodes.keys() == frozen.keys(), f"{len(running.nodes)} nodes, {len(frozen)} in the contract"


def import_time(running: Running) -> Verdict:
    (line,) = [line for line in running.log_at_start if re.search(rf"seconds.*{PACK}", line)]
    seconds = float(re.search(r"([\d.]+) seconds", line)[1])
    return seconds < MAX_IMPORT_SECONDS, f"{seconds} s"


def prefixed(running: Running) -> Verdict:
    return _none_of([name for name in running.nodes if not name.startswith("Gloria")])


def described(running: Running) -> Verdict:
    return _none_of([name for name, node in running.nodes.items() if len(node["description"]) < 20])


def input_tooltips(running: Running) -> Verdict:
    return _none_of([f"{name}.{key}" for name, key, spec in running.inputs() if not _options(spec).get("tooltip")])


def output_tooltips(running: Running) -> Verdict:
    nodes = running.nodes.items()
    return _none_of([name for name, node in nodes if node["output"] and not all(node.get("output_tooltips") or [None])])


def number_limits(running: Running) -> Verdict:
    numbers = [(name, key, _options(spec)) for name, key, spec in running.inputs() if spec[0] in ("INT", "FLOAT")]
    return _none_of([f"{name}.{key}" for name, key, options in numbers if not {"min", "max"} <= options.keys()])


def one_category(running: Running) -> Verdict:
    roots = {node["category"].split("/")[0] for node in running.nodes.values()}
    return len(roots) == 1, ", ".join(sorted(roots))


def aliases(running: Running) -> Verdict:
    return _none_of([name for name, node in running.nodes.items() if not node.get("search_aliases")])


def few_widgets(running: Running) -> Verdict:
    counts: dict[str, int] = dict.fromkeys(running.nodes, 0)
    for name, _, spec in running.inputs():
        is_widget = isinstance(spec[0], list) or spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
        counts[name] += is_widget and not _options(spec).get("advanced")
    most = max(counts, key=counts.get)
    return counts[most] <= MAX_PLAIN_WIDGETS, f"at most {counts[most]} ({most})"


def trainer_sockets(running: Running) -> Verdict:
    outputs = running.nodes[TRAINER]["output"]
    return {"LORA_MODEL", "LOSS_MAP"} <= set(outputs), ", ".join(outputs)


# --- what the server serves ------------------------------------------------------------------------------------------


def help_pages(running: Running) -> Verdict:
    missing = []
    for name in running.nodes:
        for page in (f"{name}.md", f"{name}/zh.md"):  # the page without a language is the English one
            if not _answers(running, f"/extensions/{PACK}/docs/{page}"):
                missing.append(page)
    return _none_of(missing)


def scripts_once(running: Running) -> Verdict:
    files = [path.rpartition("/")[2] for path in running.server.request("/extensions") if PACK in path.lower()]
    return len(files) == len(set(files)), f"{len(files)} scripts"


def public_imports(_: Running) -> Verdict:
    imports = {
        found for path in (REPO / "web").rglob("*.js") for found in re.findall(r'from "([^"]+)"', path.read_text())
    }
    return _none_of(sorted(name for name in imports if not PUBLIC_IMPORT.fullmatch(name)))


def templates(running: Running) -> Verdict:
    offered = running.server.request("/api/workflow_templates")[PACK]
    files = [path.stem for path in (REPO / "workflows").glob("*.json")]
    return sorted(offered) == sorted(files), f"{len(offered)} workflows"


def thumbnails(_: Running) -> Verdict:
    paths = sorted((REPO / "workflows").glob("*.json"))
    return _none_of([path.stem for path in paths if not path.with_suffix(".jpg").exists()])


def out_of_range(running: Running) -> Verdict:
    workflow = json.loads(json.dumps(running.workflow))
    (sampler,) = [node for node in workflow.values() if node["class_type"] == "GloriaSampleLongVideo"]
    sampler["inputs"]["steps"] = 10**9
    # Outputs that do not need the sampler, the plan for one, are accepted; the film is refused.
    answer = running.server.request("/prompt", {"prompt": workflow})
    errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
    text = "; ".join(f"{error['type']}: {error['details']}" for error in errors)
    return "value_bigger_than_max" in text, text or "was accepted"


def own_model_folders(running: Running) -> Verdict:
    """A second server, with a models folder named in a file as users have it."""
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder) / "elsewhere"
        for kind in ("diffusion_models", "gloria"):
            (elsewhere / kind).mkdir(parents=True)
            (elsewhere / kind / "elsewhere.safetensors").touch()  # ComfyUI only looks for the names
        config = Path(folder) / "paths.yaml"
        lines = ["mine:", f"  base_path: {elsewhere}", "  diffusion_models: diffusion_models", "  gloria: gloria"]
        config.write_text("\n".join(lines))
        with _server(running.base, "--extra-model-paths-config", str(config)) as server:
            node = server.request("/object_info/GloriaLoadModel")["GloriaLoadModel"]["input"]
    text = json.dumps(node)
    return text.count("elsewhere.safetensors") == 2, f"listed by {text.count('elsewhere.safetensors')} of 2 widgets"


# --- what runs -------------------------------------------------------------------------------------------------------


def cancels(running: Running) -> Verdict:
    """Cancel in the middle of a chunk."""
    asked: list[float] = []

    def on_message(kind: str, data: dict) -> None:
        if kind == "progress" and data.get("value", 0) >= 3 and not asked:
            asked.append(time.monotonic())
            _post(running, "/interrupt")

    end = running.run({"15.seed": 5}, on_message)
    seconds = time.monotonic() - asked[0]
    return end == "execution_interrupted" and seconds < MAX_CANCEL_SECONDS, f"{seconds:.2f} s, {end}"


def tells(running: Running) -> Verdict:
    """The first whole run: progress, previews are counted by the browser tests, texts with the time left."""
    seen: dict[str, int] = {}
    texts = []

    def on_message(kind: str, data: dict) -> None:
        seen[kind] = seen.get(kind, 0) + 1
        if kind == "text":
            texts.append(data["text"])

    end = running.run(on_message=on_message)
    with_eta = sum("ETA" in text or "left" in text for text in texts)
    ok = end == "execution_success" and seen.get("progress_state", 0) > 20 and with_eta > 5
    return ok, f"{end}, {seen.get('progress_state', 0)} progress messages, {with_eta} texts with the time left"


def second_run_cached(running: Running) -> Verdict:
    executed = []

    def on_message(kind: str, data: dict) -> None:
        if kind == "executing" and data.get("node"):
            executed.append(running.workflow[data["node"]]["class_type"])

    end = running.run(on_message=on_message)
    saving = {"SaveVideo", "PreviewAny", "PreviewImage"}
    return end == "execution_success" and set(executed) <= saving, f"executed again: {executed or 'nothing'}"


def memory_returns(running: Running) -> Verdict:
    """Against the first run, not the start: on a CPU the libraries that a first run loads stay in the same memory."""
    before = _freed(running)
    for seed in (6, 7, 8):
        running.run({"15.seed": seed})
    growth = _freed(running) / before - 1
    return growth < MAX_MEMORY_GROWTH, f"resident set {growth:+.1%} by three more runs"


def _freed(running: Running) -> int:
    _post(running, "/free", {"unload_models": True, "free_memory": True})
    time.sleep(5)
    return running.memory()


def metadata(running: Running) -> Verdict:
    film = max((running.base / "output" / "gloria").glob("*.mp4"), key=lambda path: path.stat().st_mtime)
    with av.open(str(film)) as container:
        keys = container.metadata.keys()
    return "prompt" in keys, f"{film.name}: {', '.join(sorted(keys))}"


# --- tools -----------------------------------------------------------------------------------------------------------


def registry(_: Running) -> Verdict:
    if not shutil.which("comfy"):
        return None, "comfy-cli is not installed"
    result = subprocess.run(["comfy", "--skip-prompt", "node", "validate"], cwd=REPO, capture_output=True, text=True)
    text = " ".join((result.stdout + result.stderr).split())
    return result.returncode == 0 and "warning" not in text.lower(), text.rpartition("... ")[2]


def archive(_: Running) -> Verdict:
    """What git tracks, without what .comfyignore names: the archive that is published."""
    ignored = (REPO / ".comfyignore").read_text().split()
    tracked = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split()
    kept = [path for path in tracked if not any(path == name or path.startswith(name) for name in ignored)]
    num_bytes = sum((REPO / path).stat().st_size for path in kept)
    code = [path for path in kept if not path.startswith(DEMO_MODEL)]
    bad = [path for path in code if path.endswith((".safetensors", ".pyc", ".pt")) or path.startswith("tests/")]
    return not bad and num_bytes < MAX_ARCHIVE_BYTES, f"{len(kept)} files, {num_bytes / 1e6:.1f} MB unpacked; {bad}"


def requirements_resolve(_: Running) -> Verdict:
    if not shutil.which("uv"):
        return None, "uv is not installed"
    command = ["uv", "pip", "compile", "-q", str(COMFYUI / "requirements.txt"), str(REPO / "requirements.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode == 0, result.stderr[-200:] or "resolves together with ComfyUI's"


def no_network(running: Running) -> Verdict:
    command = ["unshare", "-rn", sys.executable, str(COMFYUI / "main.py"), "--cpu", "--quick-test-for-ci"]
    command += ["--base-directory", str(running.base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=running.base)
    return result.returncode == 0 and "IMPORT FAILED" not in result.stdout + result.stderr, f"exit {result.returncode}"


def lint(_: Running) -> Verdict:
    if not shutil.which("comfy-test"):
        return None, "comfy-test is not installed"
    result = subprocess.run(["comfy-test", "lint", str(REPO)], capture_output=True, text=True)
    text = result.stdout + result.stderr
    scripts = set(re.findall(r"([\w/]+\.js):\d+ ", text))
    # The linter wants ComfyUI's layers everywhere; the core and its tests import no ComfyUI.
    layers = set(re.findall(r"^ +((?:tests|gloria_core)/[\w/]+\.py):", text, re.MULTILINE))
    others = set(re.findall(r"^ +([\w/]+\.py):", text, re.MULTILINE)) - layers
    seen = f"torch.nn in {len(layers)} files without ComfyUI; else: {', '.join(scripts | others) or 'nothing'}"
    return result.returncode == 0, seen


# --- the table -------------------------------------------------------------------------------------------------------

ROWS: list[tuple[str, Callable[[Running], Verdict] | str]] = [
    ("loads", loads),
    ("node count is right", node_count),
    ("no V1 node map", "test_pack.py::test_v1_mappings_are_absent_because_they_would_switch_the_entry_point_off"),
    ("imports in less than 1 s", import_time),
    ("node ids carry our prefix", prefixed),
    ("every node has a description", described),
    ("tooltip on each input", input_tooltips),
    ("tooltip on each output", output_tooltips),
    ("limits on every number", number_limits),
    ("one category root", one_category),
    ("search aliases", aliases),
    ("at most 12 plain widgets", few_widgets),
    ("help page for every node, in English and Chinese", help_pages),
    ("scripts are served once", scripts_once),
    ("scripts import only public modules", public_imports),
    ("no deprecated front-end module", "test_browser.py::test_the_server_logs_no_deprecation"),
    ("comfy-test lint", lint),
    ("one folder of templates", templates),
    ("thumbnails", thumbnails),
    ("workflows are valid", "test_workflows.py::test_comfyui_accepts_the_workflow_when_the_files_are_there"),
    ("every node is in a workflow", "test_workflows.py::test_every_node_of_the_pack_is_shown_in_some_workflow"),
    ("the CPU workflow runs, with progress and time left", tells),
    ("a second run is cached", second_run_cached),
    ("both renderers", "browser (every module runs in both)"),
    ("newest front end", "browser, with FRONTEND=<unpacked comfyui-frontend-package>/static; see docs/benchmarks.md"),
    ("oldest and newest ComfyUI", "nodes, per release; see docs/benchmarks.md"),
    ("notes in the workflows", "test_workflows.py::test_each_stage_is_a_titled_group_with_a_note"),
    ("addresses of models can be downloaded",
     "test_workflows.py::test_every_public_model_has_an_address_that_the_editor_can_download"),
    ("loaders name their models",
     "test_workflows.py::test_every_public_model_has_an_address_that_the_editor_can_download"),
    ("nodes name their pack", "test_workflows.py::test_nodes_say_which_pack_they_come_from"),
    ("blueprints are valid", "none are shipped"),
    ("the contract is frozen", "test_pack.py::test_saved_workflows_keep_their_meaning"),
    ("renames are mapped", "nothing has been renamed since the first release"),
    ("old workflows open", "there is no older release"),
    ("locales match the nodes", "test_locales.py::test_chinese_has_every_text_of_every_node_and_no_other"),
    ("registry check", registry),
    ("archive has no weights but the demo model's and is below 40 MB", archive),
    ("no risky calls", "test_pack.py::test_shipped_code_runs_no_programs_and_unpickles_nothing"),
    ("no edits of sys.path", "test_pack.py::test_shipped_code_runs_no_programs_and_unpickles_nothing"),
    ("requirements resolve with ComfyUI's", requirements_resolve),
    ("nothing is pinned that ComfyUI brings", "test_pack.py::test_requirements_pin_nothing_that_comfyui_brings"),
    ("loads without a network", no_network),
    ("imports without a server", "test_pack.py::test_folder_imports_where_there_is_no_comfyui"),
    ("Cancel within 2 s", cancels),
    ("progress and previews", "test_sample_long_video.py::test_progress_counts_all_steps_of_all_chunks"),
    ("time left as text", "row 22 of this table"),
    ("inputs stay as they were", "test_condition.py::test_nothing_that_was_given_is_changed"),
    ("unknown keys of a latent are kept",
     "test_sample_long_video.py::test_the_output_keeps_unknown_keys_and_drops_the_mask"),
    ("the user's own model folders", own_model_folders),
    ("a missing file is named with its folder",
     "test_workflows.py::test_missing_gloria_weights_are_reported_by_name_before_anything_runs"),
    ("values out of range are refused", out_of_range),
    ("runs on a CPU", "all of this table"),
    ("memory comes back", memory_returns),
    ("resume after kill -9",
     "test_cancel_and_kill.py::test_killed_server_goes_on_after_a_restart_with_the_same_film"),
    ("the trainer has the stock trainer's sockets", trainer_sockets),
    ("the video holds its workflow", metadata),
    ("versions agree", "test_pack.py::test_version_is_the_newest_in_the_changelog"),
    ("archive is small", archive),
]  # fmt: skip


def main() -> None:
    """Print the table; exit with the number of rows that do not hold."""
    with tempfile.TemporaryDirectory() as folder:
        base = quickstart.prepare_base(Path(folder))
        with _server(base) as server:
            running = Running(server, base)
            lines = [_line(number, what, check, running) for number, (what, check) in enumerate(ROWS, 1)]
    print(HEADER.format(comfyui=COMFYUI.name))
    print("\n".join(lines))
    sys.exit(sum("**no**" in line for line in lines))


HEADER = """# Release checklist

Made by `COMFYUI_PATH=<ComfyUI> python tests/release_checklist.py` ({comfyui}, two CPU cores, no GPU).
Rows that name a test are covered by the test-suite, where they fail it; the others were measured by this run.

| # | must hold | holds | seen |
|--|--|--|--|"""


def _line(number: int, what: str, check: Callable[[Running], Verdict] | str, running: Running) -> str:
    if isinstance(check, str):
        return f"| {number} | {what} | {'by' if _exists(check) else '**no**'} | {check} |"
    try:
        holds, seen = check(running)
    except Exception as error:  # a row that breaks must not hide the others
        holds, seen = False, f"{type(error).__name__}: {error}"
    word = {True: "yes", False: "**no**", None: "not looked at"}[holds]
    print(number, what, word, seen, file=sys.stderr, flush=True)
    return f"| {number} | {what} | {word} | {' '.join(seen.split()).replace('|', '/')} |"


def _exists(covered_by: str) -> bool:
    """False where a test is named that is not there any more."""
    file, _, test = covered_by.partition("::")
    return not test or any(f"def {test}(" in path.read_text() for path in (REPO / "tests").rglob(file))


def _none_of(bad: list[str]) -> Verdict:
    return not bad, "; ".join(bad) or "all"


def _options(spec: list) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def _answers(running: Running, path: str) -> bool:
    with contextlib.suppress(urllib.error.HTTPError):
        return urllib.request.urlopen(running.server.url + path, timeout=30).status == 200
    return False


def _post(running: Running, path: str, body: dict[str, Any] | None = None) -> None:
    data, headers = json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(running.server.url + path, data, headers), timeout=30).close()


@contextlib.contextmanager
def _server(base: Path, *options: str) -> Iterator[quickstart.Server]:
    with quickstart.running_server(sys.executable, COMFYUI, base, quickstart.free_port(), *options) as server:
        server.wait_until_ready()
        yield server


if __name__ == "__main__":
    main()
