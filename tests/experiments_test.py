"""What `make experiments` does around the runs: records, sections, tables."""

import json
import subprocess

import pytest

from benchmarks import _pages
from benchmarks.experiments import encoders, ensembles, results, running, tune
from benchmarks.experiments.encoders import ENCODERS
from benchmarks.experiments.ensembles import ENSEMBLES
from benchmarks.experiments.tables import MAIN, TABLES
from benchmarks.experiments.tasks import ELSEWHERE, TASKS
from kerobust import flags


@pytest.fixture
def command(monkeypatch):
    """Replaces the training command by one that the test chooses."""

    def replace(*words):
        real = subprocess.Popen
        calls = []

        def start(arguments, cwd):
            calls.append(arguments)
            return real(list(words), cwd=cwd)

        monkeypatch.setattr(running.subprocess, "Popen", start)
        return calls

    return replace


def test_a_finished_command_is_not_started_again(command, tmp_path):
    calls = command("true")

    # One limit, the same again, another one, and the first again, whose results the
    # one in between has replaced.
    for limit in (1, 1, 2, 1):
        flags = ("evaluate", f"--evaluate.limit={limit}")
        running.run(tmp_path / "arm", "configs/mimir.flags", *flags)

    assert len(calls) == 3
    for arm, day in (("arm", "2026-11-20"), ("other", "2026-11-19")):
        written = json.dumps({"time": f"{day}T01:02:03"})
        (tmp_path / arm).mkdir(exist_ok=True)
        (tmp_path / arm / "environment.json").write_text(written)
    ends = [{"seconds": 60.0, "peak_megabytes": 50_000.0}] * 2
    lines = "".join(json.dumps(end) + "\n" for end in ends)
    (tmp_path / "other" / "usage.jsonl").write_text(lines)
    cost = running.spent([tmp_path / "arm", tmp_path / "other"])
    assert cost == "2026-11-20; 2 minutes recorded, at most 50.0 GB of memory"


def test_a_failed_command_is_recorded_and_started_again(command, tmp_path):
    calls = command("false")

    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            running.run(tmp_path, "configs/mimir.flags", "pretrain")

    lines = (tmp_path / "usage.jsonl").read_text().splitlines()
    assert len(calls) == 2 and [json.loads(x)["code"] for x in lines] == [1, 1]


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n\nfirst\n\n## Part\n\nold\n\n# Two\n\nsecond\n")

    _pages.replace_section(page, "One", "new\n\n## Part\n\nmore\n")
    _pages.replace_section(page, "Three", "third")

    assert page.read_text() == (
        "# One\n\nnew\n\n## Part\n\nmore\n\n# Two\n\nsecond\n\n# Three\n\nthird\n"
    )


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_command_of_a_table_is_a_valid_one(command, tmp_path, monkeypatch, name):
    calls = command("true")
    monkeypatch.setattr("benchmarks.experiments.running.RUNS", tmp_path)

    TABLES[name].run(seed=3, extra=["--data.dir=somewhere"])

    configs = [flags.parse(arguments[3:]).config for arguments in calls]
    assert [config.method for config in configs] == ["mimir", "mimir", "mae"]
    assert [config.mimir.weight > 0 for config in configs[:2]] == [True, False]
    assert all(config.run.seed == 3 for config in configs)
    assert [("baselines" in config.run.stages) for config in configs] == [1, 0, 0]


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_arm_of_encoders_is_taught_by_the_first(
    command, tmp_path, monkeypatch, name
):
    calls = command("true")
    monkeypatch.setattr("benchmarks.experiments.running.RUNS", tmp_path)
    table = ENCODERS[name]

    table.run(seed=3, extra=["--data.dir=somewhere"])

    configs = [flags.parse(arguments[3:]).config for arguments in calls]
    arms = list(table.arms)
    trained, tested = configs[::2], configs[1::2]
    assert [config.run.stages for config in trained] == [("pretrain",)] * len(arms)
    assert [config.run.stages for config in tested] == [("evaluate",)] * len(arms)
    assert [config.method for config in trained] == [arm.split("_")[0] for arm in arms]
    teacher = str(table.workdir("dino", 3) / "encoder")
    starts = [config.run.init_from for config in trained]
    assert starts == [None] + [teacher] * (len(arms) - 1)
    # An evaluation must find the folder of its training as it was left.
    for first, second in zip(trained, tested, strict=True):
        assert first.run.workdir == second.run.workdir
        assert (first.deacl, first.fare) == (second.deacl, second.fare)
        assert first.pretrain == second.pretrain


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_arm_across_tasks_is_taught_by_the_first_and_all_are_compared(
    command, tmp_path, monkeypatch, name, seed
):
    calls = command("true")
    monkeypatch.setattr("benchmarks.experiments.running.RUNS", tmp_path)
    table = TASKS[name]

    table.run(seed=seed, extra=["--data.dir=somewhere"])

    *trained, tested = [flags.parse(arguments[3:]).config for arguments in calls]
    fitting = [config for config in trained if config.run.stages == ("benchmark",)]
    trained = [config for config in trained if config not in fitting]
    arms = [arm for arm in table.arms if seed == 0 or arm not in table.once]
    assert [config.method for config in trained] == [arm.split("_")[0] for arm in arms]
    teacher = str(table.encoder("mae", seed))
    starts = [config.run.init_from for config in trained]
    assert starts == [None] + [teacher] * (len(arms) - 1)
    for config in trained[1:]:  # The radius of training is that of the attack.
        assert getattr(config, config.method).epsilon == tested.attack.epsilon
    assert tested.run.stages == ("benchmark",)
    compared = [text.split("=")[0] for text in tested.benchmark.encoders]
    assert compared == arms and tested.benchmark.seed == seed
    # Heads are fitted on the teacher before something is trained against them.
    headed = [arm for arm in table.headed if arm in arms]
    assert len(fitting) == len(headed)
    heads = table.workdir("benchmark", seed) / "benchmark" / "scenes" / "mae"
    for arm, config in zip(arms, trained, strict=True):
        folders = [str(heads / x) for x in ("classification", "segmentation", "depth")]
        assert list(config.multi.heads) == folders * (arm in headed)


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_encoders_of_another_table_are_compared_elsewhere(
    command, tmp_path, monkeypatch, name
):
    calls = command("true")
    monkeypatch.setattr("benchmarks.experiments.running.RUNS", tmp_path)
    table = ELSEWHERE[name]
    with pytest.raises(FileNotFoundError, match=f"experiments {table.of}` before"):
        table.run(seed=3, extra=[])

    for arm in table.arms:
        TASKS[table.of].encoder(arm, 3).mkdir(parents=True)
    table.run(seed=3, extra=["--data.name=masks:somewhere"])

    (config,) = [flags.parse(call[3:]).config for call in calls]
    named = [text.split("=") for text in config.benchmark.encoders]
    assert named == [[a, str(TASKS[table.of].encoder(a, 3))] for a in table.arms]
    assert config.data.name == "masks:somewhere" and config.benchmark.seed == 3
    assert table.of in config.benchmark.encoders[0]


def test_tables_of_encoders_hold_means_of_the_seeds_and_differences_to_the_teacher():
    def result(right):
        return {
            "examples": {"clean": [1, 1], "worst": right, "robust": {"pgd": right}},
            "robust": {"pgd": {}},
            "curve": [{"epsilon": 8 / 255, "robust_accuracy": sum(right) / 2}],
        }

    found = [
        {"dino": result([0, 0]), "deacl": result([1, 1])},
        {"dino": result([0, 0]), "deacl": result([1, 0])},
    ]

    accuracy = encoders._accuracy(found[0], found).splitlines()
    curves = encoders._curves(found[0], found, "curve").splitlines()

    assert "| deacl | 100.0 ± 0.0 | 75.0 ± 35.4 | 75.0 ± 35.4 | +75.0 [" in accuracy[3]
    assert curves[0].split() == ["|", "arm", "|", "8/255", "|"]
    assert curves[3].split() == ["|", "deacl", "|", "75.0", "|"]


@pytest.mark.parametrize("name", sorted(ENSEMBLES))
def test_every_arm_of_ensembles_goes_on_from_the_one_it_names(
    command, tmp_path, monkeypatch, name
):
    calls = command("true")
    monkeypatch.setattr("benchmarks.experiments.running.RUNS", tmp_path)
    table = ENSEMBLES[name]

    table.run(seed=3, extra=["--data.dir=somewhere"])

    surrogate, *configs = [flags.parse(call[3:]).config for call in calls]
    assert surrogate.run.seed == 1000 and surrogate.ensemble.attack == "natural"
    step = 1 + len(table.evaluations)
    for index, (arm, (start, _)) in enumerate(table.arms.items()):
        trained, *tested = configs[step * index : step * (index + 1)]
        own = str(table.workdir(arm, 3) / "ensemble")
        before = None if start is None else str(table.workdir(start, 3) / "ensemble")
        assert trained.run.stages == ("pretrain",)
        assert trained.run.init_from == before
        assert trained.method == ("dverge" if "dverge" in arm else "ensemble")
        assert [config.run.init_from for config in tested] == [own] * len(tested)
        norms = [config.attack.norm for config in tested]
        assert norms == [
            {"report": "linf", "report_l2": "l2"}.get(name, name)
            for name in table.evaluations
        ]
        assert tested[0].diversity.surrogates == (f"{table.surrogate}/ensemble",)
        assert [config.evaluate.diversity for config in tested] == [
            name == "linf" for name in table.evaluations
        ]
    attacks = {
        arm: configs[step * i].ensemble.attack for i, arm in enumerate(table.arms)
    }
    known = {"dverge_advt": "members", "adversarial": "ensemble"}
    assert attacks == {arm: known.get(arm, "natural") for arm in table.arms}


# What two members share, and how their ensemble was trained.
_RIGHT = {
    "member 1": {"member 1": [0, 0], "member 2": [1, 1], "ensemble": [1, 0]},
    "member 2": {"member 1": [1, 0], "member 2": [0, 1], "ensemble": [1, 0]},
}
SHARED = {
    "attack": dict.fromkeys(
        ("steps", "restarts", "surrogate_steps", "surrogate_restarts"), 1
    ),
    "transfer": {"examples": {"robust": _RIGHT}},
    "diversity": {"mean": 2.5},
    "black_box": {"all": {"correct": 7, "total": 10}},
    "images": 2,
}
INFO = {"seconds": 30.0, "flags": {"pretrain.epochs": "3"}}


def outcome(right, *notes) -> dict:
    """Returns what an evaluation by PGD leaves in results.json."""
    examples = {"clean": [1, 1], "worst": right, "robust": {"pgd": right}}
    return {"examples": examples, "robust": {"pgd": {}}, "notes": notes}


def test_tables_of_ensembles_name_the_arm_and_average_the_seeds():
    networks = {
        "model": [outcome([1, 1]), outcome([1, 0])],
        "model member 1": [outcome([0, 0]), outcome([0, 0])],
    }

    rows = ensembles.accuracies({"dverge": networks}).splitlines()
    one, three = (
        [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]]
        for text in (
            ensembles.sharing({"dverge": [SHARED] * count}) for count in (1, 3)
        )
    )
    last = ensembles.training({"dverge": [INFO]}).splitlines()[2]

    assert "| dverge          | 100.0 ± 0.0 | 75.0 ± 35.4 | 75.0 ± 35.4" in rows[2]
    assert rows[3].startswith("| dverge member 1 |")
    means = ["75.0", "25.0", "50.0", "2.5", "70.0"]
    assert three == ["dverge", "2, 2, 2", *(f"{each} ± 0.0" for each in means)]
    assert one[2:4] == ["75.0 [50.0, 100.0]", "25.0 [0.0, 50.0]"]
    assert one[-1] == "70.0 [39.7, 89.2]"
    assert [cell.strip() for cell in last.split("|")[1:-1]] == ["dverge", "3", "10.0"]


def test_a_page_of_ensembles_reads_every_protocol_of_every_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.experiments.running.RUNS", tmp_path)
    monkeypatch.setattr(ensembles, "ROOT", tmp_path)
    monkeypatch.setattr(ensembles, "read_info", lambda _: INFO)
    table = ENSEMBLES["dverge_cifar10"]
    trained = [table.workdir(arm, seed) for seed in (0, 1) for arm in table.arms]
    attacked = [folder / name for folder in trained for name in table.evaluations]
    for folder in (*trained, *attacked, table.surrogate):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "environment.json").write_text('{"time": "2026-11-29T12:00"}')
        report = {"diversity": {"model": SHARED}}
        (folder / "report.json").write_text(json.dumps(report))
    for number, folder in enumerate(attacked):
        right = [1, int("seed-1" in str(folder))]
        found = outcome(right, f"[warning] sign-{number}: words", "[info] not shown")
        for network in ("model", "model_member_1"):
            place = folder / "evaluate" / network
            place.mkdir(parents=True)
            (place / "results.json").write_text(json.dumps(found))
    (tmp_path / "docs").mkdir()

    table.write(range(2), "a machine", [])

    page = (tmp_path / "docs" / "results.md").read_text()
    assert page.count("75.0 ± 35.4") == 2 * 2 * len(table.arms) * 4
    assert "vanilla, seed 0: [warning] sign-0; vanilla, seed 1: [warning]" in page


@pytest.mark.parametrize("name", sorted(tune.SEARCHES))
def test_a_search_reads_validation_images_only(command, tmp_path, monkeypatch, name):
    calls = command("true")
    monkeypatch.setattr(tune, "RUNS", tmp_path / "runs")
    row = {"natural": {"accuracy": 0.5}, "worst": {"accuracy": 0.25}}

    class Report:
        def read_text(self):
            return json.dumps({"rows": [row]})

    real = running.run

    def run(workdir, *rest):
        real(workdir, *rest)
        (workdir / "report.json").write_text(Report().read_text())
        return workdir

    monkeypatch.setattr(tune, "run", run)

    table = tune.search(name, [])

    configs = [flags.parse(arguments[3:]).config for arguments in calls]
    tested = [config for config in configs if "evaluate" in config.run.stages]
    assert tested and all(x.evaluate.split == "validation" for x in tested)
    assert all(config.run.seed == tune.SEED for config in configs)
    assert table.count("| 50.0        | 25.0") == len(tested)


def result(clean, worst) -> dict:
    """Returns what an evaluation of four images writes."""
    return {
        "examples": {"clean": clean, "worst": worst},
        "threat": {"norm": "linf", "epsilon": 0.1},
        "natural": {"total": 4},
        "robust": {"pgd": {}},
        "settings": {"steps": 20, "restarts": 2},
    }


def test_rows_hold_means_and_differences_of_all_seeds():
    seeds = [
        {MAIN: result([1, 1, 1, 0], [1, 1, 0, 0]), "other": result([1] * 4, [0] * 4)},
        {MAIN: result([1, 1, 1, 1], [1, 1, 0, 0]), "other": result([1] * 4, [0] * 4)},
    ]

    mean = results._mean_row(MAIN, seeds)
    one = results._mean_row(MAIN, seeds[:1])
    paired = results._paired_row("other", seeds)

    # 75 and 100 %: mean 87.5, sample deviation 25 / sqrt(2); 50 and 50 % worst case.
    assert mean == {
        "arm": MAIN,
        "natural %": "87.5 ± 17.7",
        "worst case %": "50.0 ± 0.0",
    }
    assert one == {"arm": MAIN, "natural %": "75.0", "worst case %": "50.0"}
    assert paired["natural: difference, points"].startswith("-12.5 [")
    assert paired["worst case: difference, points"].startswith("+50.0 [")
    # Four images to none: 2 / 2^4 in the exact test.
    assert paired["worst case: McNemar p"] == "0.12"
