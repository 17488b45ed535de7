"""Local functions by the real program: commands, their ends, the supervisor's life and death."""

import json
import os
import signal
import subprocess

import pytest

from fault_rig import Broker, event, eventually


def exec_config(script, exec_more="", trigger_more="", name="job"):
    quoted = json.dumps(script)
    return ("functions:\n  %s:\n    exec:\n      command: [/bin/sh, -c, %s]\n%s"
            "triggers:\n  all:\n    function: %s\n%s"
            % (name, quoted, exec_more, name, trigger_more))


@pytest.fixture
def make(tmp_path):
    made = []

    def start(rest, broker=""):
        made.append(Broker(tmp_path, rest, broker=broker, shim=False))
        return made[-1].start()

    yield start
    for broker in made:
        broker.end()


def lines(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def supervisor(broker):
    """The process id of the broker's supervisor; None if there is none."""
    children = "/proc/%d/task/%d/children" % (broker.process.pid, broker.process.pid)
    found = set()
    for task in os.listdir("/proc/%d/task" % broker.process.pid):
        with open(children.replace("/task/%d/" % broker.process.pid, "/task/%s/" % task),
                  encoding="ascii") as file:
            found.update(int(word) for word in file.read().split())
    for child in found:
        with open("/proc/%d/cmdline" % child, "rb") as file:
            if b"supervise" in file.read():
                return child
    return None


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid, encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def runs(broker, function="job"):
    """The kept runs: the head of each, and what it wrote."""
    found = []
    for path in broker.files(os.path.join("runs", function)):
        with open(path, encoding="utf-8", errors="replace") as file:
            head, _, text = file.read().partition("\n")
        found.append((json.loads(head), text))
    return found


def test_a_command_runs_for_each_event_with_its_attributes_and_input(make, tmp_path):
    out = tmp_path / "out"
    broker = make(exec_config(
        'read line; echo "$CE_ID $CE_TYPE $TOCSIN_ATTEMPT $GREETING $(pwd)" >> %s; '
        'echo "got $line"; echo "and a word" >&2' % out,
        "      environment: { GREETING: hello }\n      directory: %s\n" % tmp_path))
    assert broker.accepted(event("a", data="x"), event("b", data="y"))
    eventually(lambda: broker.books().acked == 2)
    assert sorted(lines(out)) == ["a test.event 1 hello %s" % tmp_path,
                                  "b test.event 1 hello %s" % tmp_path]
    kept = {head["event"]: (head, text) for head, text in runs(broker)}
    head, text = kept["a"]
    assert head["ended"] == "exit 0" and head["answer"] == "ack" and head["trigger"] == "all"
    assert '"id":"a"' in text.replace(" ", "") and "and a word" in text


@pytest.mark.parametrize("keys, expected", [
    ("      input: data\n", "<payload>"),
    ("      input: none\n", "<>"),
    ("      stdin: \"one\\ntwo\"\n", "<one\ntwo>"),
])
def test_what_is_on_standard_input(make, tmp_path, keys, expected):
    broker = make(exec_config("printf '<'; cat; printf '>'", keys))
    assert broker.accepted(event("a", data="payload"))
    eventually(lambda: broker.books().acked == 1)
    assert runs(broker)[0][1] == expected


def test_the_exit_status_decides(make):
    retry = "    retry: { attempts: 2, backoff: 10ms, jitter: none }\n"
    broker = make(exec_config(
        'case "$CE_ID" in bad) echo broken >&2; exit 3;; no) echo never >&2; exit 65;; '
        'dead) kill -9 $$;; esac', trigger_more=retry))
    assert broker.accepted(event("good"), event("bad"), event("no"), event("dead"))
    eventually(lambda: broker.books().acked == 1 and broker.books().dead == 3)
    letters = {one.event_id: one for one in broker.letters()}
    assert "broken" in letters["bad"].message and "never" in letters["no"].message
    ended = {}
    for head, _ in runs(broker):
        ended.setdefault(head["event"], []).append(head["ended"])
    assert ended["good"] == ["exit 0"]
    assert ended["bad"] == ["exit 3", "exit 3"]
    assert ended["no"] == ["exit 65"]
    assert ended["dead"] == ["signal 9", "signal 9"]


def test_at_its_timeout_the_whole_process_group_ends(make, tmp_path):
    pids = tmp_path / "pids"
    broker = make(exec_config(
        "trap '' TERM; echo $$ > %s; sleep 1000 & echo $! >> %s; wait; wait" % (pids, pids),
        "      timeout: 300ms\n", "    retry: { attempts: 1 }\n"))
    assert broker.accepted(event("slow"))
    eventually(lambda: broker.books().dead == 1)
    assert len(lines(pids)) == 2
    for pid in lines(pids):
        eventually(lambda one=int(pid): not alive(one))
    assert "longer than 300 ms" in runs(broker)[0][0]["ended"]


def test_a_run_longer_than_the_lease_is_renewed_until_its_own_timeout(make):
    broker = make(exec_config("sleep 1.5", "      timeout: 20s\n",
                              "    timeout: 500ms\n    timeout_max: 1m\n"))
    assert broker.accepted(event("a"))
    eventually(lambda: broker.books().acked == 1)
    assert len(runs(broker)) == 1, "it was not begun a second time"


def test_a_flood_of_output_is_bounded_and_does_not_hide_the_end(make):
    broker = make(exec_config("yes", "      timeout: 500ms\n      output: 4KiB\n",
                              "    retry: { attempts: 1 }\n"))
    assert broker.accepted(event("a"))
    eventually(lambda: broker.books().dead == 1)
    head, text = runs(broker)[0]
    assert head["bytes"] > 100_000
    assert len(text) < 5000 and "bytes are not kept" in text


def test_what_cannot_be_started_is_said_and_retried(make):
    broker = make("functions:\n  job:\n    exec:\n      command: [/no/such/program]\n"
                  "triggers:\n  all:\n    function: job\n"
                  "    retry: { attempts: 2, backoff: 10ms }\n")
    assert broker.accepted(event("a"))
    eventually(lambda: broker.books().dead == 1)
    assert runs(broker)[0][0]["ended"] == "not started"
    assert "no such program" in runs(broker)[0][0]["message"]


def test_it_runs_as_the_user_it_is_told_to(make):
    broker = make(exec_config('echo "$(id -un) $HOME $LOGNAME $(pwd)"', "      user: nobody\n"))
    assert broker.accepted(event("a"))
    eventually(lambda: broker.books().acked + broker.books().pending == 1)
    eventually(lambda: runs(broker))
    head, text = runs(broker)[0]
    if os.geteuid() != 0:
        assert "cannot become user nobody" in head["message"]
    elif head["ended"] == "exit 0":
        name, home, login, where = text.split()
        assert name == "nobody" and login == "nobody" and home == where
    else:  # the home of nobody commonly is not there, and that is said
        assert "cannot enter" in head["message"]


def test_a_supervisor_that_is_killed_comes_again_and_nothing_is_lost(make, tmp_path):
    out = tmp_path / "out"
    broker = make(exec_config("echo $CE_ID >> %s; sleep 0.2" % out))
    first = eventually(lambda: supervisor(broker))
    names = ["e%d" % i for i in range(40)]
    assert broker.accepted(*[event(name) for name in names])
    eventually(lambda: len(lines(out)) > 4)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor(broker) not in (None, first), within=60)
    eventually(lambda: broker.books().acked == 40, within=60)
    assert set(lines(out)) == set(names)
    assert "T0215" in broker.log()


def test_nothing_outlives_a_broker_that_is_killed(make, tmp_path):
    pids = tmp_path / "pids"
    broker = make(exec_config("echo $$ >> %s; exec sleep 1000" % pids))
    assert broker.accepted(event("a"), event("b"))
    eventually(lambda: len(lines(pids)) == 2)
    one = supervisor(broker)
    broker.kill()
    eventually(lambda: not alive(one))
    for pid in lines(pids):
        eventually(lambda pid=int(pid): not alive(pid))
    broker.start()
    eventually(lambda: len(lines(pids)) == 4), "what was cut off is delivered again"


def test_a_drain_lets_commands_finish(make, tmp_path):
    out = tmp_path / "out"
    broker = make(exec_config("echo begin >> %s; sleep 1; echo end >> %s" % (out, out)))
    assert broker.accepted(event("a"))
    eventually(lambda: lines(out) == ["begin"])
    broker.stop()
    assert lines(out) == ["begin", "end"]
    broker.start()
    assert broker.books().acked == 1


def test_a_reload_changes_what_is_served_and_lets_the_old_finish(make, tmp_path):
    out = tmp_path / "out"
    broker = make(exec_config("echo old-$CE_ID >> %s; sleep 1; echo old-end >> %s" % (out, out)))
    assert broker.accepted(event("a"))
    eventually(lambda: lines(out) == ["old-a"])
    broker.set_config(exec_config("echo new-$CE_ID >> %s" % out))
    assert broker.run("reload").returncode == 0
    assert broker.accepted(event("b"))
    eventually(lambda: broker.books().acked == 2)
    assert sorted(lines(out)) == ["new-b", "old-a", "old-end"]
    one = supervisor(broker)
    broker.set_config("functions: { job: {} }\ntriggers: { all: { function: job } }\n")
    assert broker.run("reload").returncode == 0
    eventually(lambda: not alive(one))


def test_the_socket_is_for_the_user_alone_and_asks_for_the_token(make):
    tokens = "  tokens: [ { token: geheim, scopes: [publish, work, admin] } ]\n"
    broker = make(exec_config("exit 0"), broker=tokens)
    path = os.path.join(broker.data, "local.sock")
    assert os.stat(path).st_mode & 0o777 == 0o600
    told = dict(os.environ, TOCSIN_TARGET=broker.target, TOCSIN_TOKEN="geheim")
    sent = subprocess.run([os.environ["TOCSIN"], "publish", "--type", "t", "--source", "/s"],
                          env=told, capture_output=True, timeout=60, check=False)
    assert sent.returncode == 0, sent.stderr
    eventually(lambda: runs(broker))
    refused = subprocess.run([os.environ["TOCSIN"], "workers"], capture_output=True, timeout=60,
                             env=dict(os.environ, TOCSIN_TARGET="unix:" + path), check=False)
    assert refused.returncode == 1 and b"T0203" in refused.stderr, refused.stderr
    broker.stop()
    assert not os.path.exists(path)


# --- workers that live on ---

def run_config(folder, keys, code="pass", more=""):
    """A Python worker that notes its life and its events in <folder>/ledger, a line each."""
    script = os.path.join(str(folder), "worker.py")
    with open(script, "w", encoding="utf-8") as out:
        out.write("import os, time\n"
                  "from tocsin import Worker\n"
                  "def note(*words):\n"
                  "    with open(%r, 'a') as out:\n"
                  "        out.write(' '.join(map(str, words)) + '\\n')\n"
                  "note('start', os.getpid())\n"
                  "worker = Worker('thumbs')\n"
                  "@worker.function(os.environ['TOCSIN_FUNCTION'])\n"
                  "def thumb(event, ctx):\n"
                  "    note('begin', event.id, os.getpid())\n"
                  "    %s\n"
                  "    note('end', event.id)\n"
                  "worker.run()\n"
                  "note('stop', os.getpid())\n" % (os.path.join(str(folder), "ledger"), code))
    return ("functions:\n  thumbs:\n    run:\n      command: [/usr/bin/python3, -B, %s]\n%s"
            "triggers:\n  all:\n    function: thumbs\n%s" % (script, keys, more))


def noted(folder, what):
    return [line.split()[1] for line in lines(os.path.join(str(folder), "ledger"))
            if line.startswith(what + " ")]


def test_workers_go_from_none_to_four_and_back_and_nothing_is_cut_off(make, tmp_path):
    keys = "      max: 4\n      idle: 1s\n"
    broker = make(run_config(tmp_path, keys, "time.sleep(0.1)"))
    assert noted(tmp_path, "start") == [], "none before the first event"
    names = ["e%d" % i for i in range(60)]
    assert broker.accepted(*[event(name) for name in names])
    eventually(lambda: broker.books().acked == 60, within=60)
    assert len(noted(tmp_path, "start")) == 4, "as many as may be, and no more"
    eventually(lambda: len(noted(tmp_path, "stop")) == 4, within=60)
    # Each event once: no worker was ended while it had one.
    assert sorted(noted(tmp_path, "begin")) == sorted(names) == sorted(noted(tmp_path, "end"))
    # A second burst starts anew.
    assert broker.accepted(event("late"))
    eventually(lambda: broker.books().acked == 61, within=60)
    assert len(noted(tmp_path, "start")) == 5


def test_a_worker_does_not_read_what_the_broker_tells_its_supervisor(make, tmp_path):
    """The danger: commands with tokens and secrets on the standard input of every program."""
    broker = make(run_config(tmp_path, "", "note('input', len(os.read(0, 64)))"))
    assert broker.accepted(event("a"))
    eventually(lambda: broker.books().acked == 1, within=60)
    assert noted(tmp_path, "input") == ["0"]


def test_min_workers_run_before_any_event_and_come_again_when_killed(make, tmp_path):
    broker = make(run_config(tmp_path, "      min: 1\n      idle: 1s\n"))
    first = int(eventually(lambda: noted(tmp_path, "start"), within=60)[0])
    assert broker.accepted(event("a"))
    eventually(lambda: broker.books().acked == 1)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: len(noted(tmp_path, "start")) == 2, within=60)
    assert broker.accepted(event("b"))
    eventually(lambda: broker.books().acked == 2, within=60)


def test_a_crash_loop_is_told_and_slowed(make, tmp_path):
    starts = tmp_path / "starts"
    broker = make("functions:\n  job:\n    run:\n      min: 1\n"
                  "      command: [/bin/sh, -c, 'echo x >> %s; exit 3']\n"
                  "triggers:\n  all:\n    function: job\n" % starts)
    eventually(lambda: "T0216" in broker.log())
    assert "with status 3" in broker.log()
    assert len(lines(starts)) == 3, "told at the third, a second and two apart"


def test_workers_end_with_a_broker_that_is_killed(make, tmp_path):
    broker = make(run_config(tmp_path, "      min: 2\n      max: 2\n", "time.sleep(30)"))
    eventually(lambda: len(noted(tmp_path, "start")) == 2, within=60)
    pids = [int(pid) for pid in noted(tmp_path, "start")]
    assert broker.accepted(event("a"))
    eventually(lambda: noted(tmp_path, "begin"), within=60)
    broker.kill()
    for pid in pids:
        eventually(lambda pid=pid: not alive(pid))


def test_workers_end_with_a_supervisor_that_is_killed(make, tmp_path):
    broker = make(run_config(tmp_path, "      min: 1\n"))
    first = int(eventually(lambda: noted(tmp_path, "start"), within=60)[0])
    os.kill(supervisor(broker), signal.SIGKILL)
    eventually(lambda: not alive(first))
    eventually(lambda: len(noted(tmp_path, "start")) == 2, within=60)


def test_a_reload_changes_numbers_without_a_restart_and_commands_with_one(make, tmp_path):
    broker = make(run_config(tmp_path, "      min: 1\n      max: 1\n"))
    first = int(eventually(lambda: noted(tmp_path, "start"), within=60)[0])
    broker.set_config(run_config(tmp_path, "      min: 2\n      max: 2\n"))
    assert broker.run("reload").returncode == 0
    eventually(lambda: len(noted(tmp_path, "start")) == 2, within=60)
    assert alive(first)
    broker.set_config(run_config(tmp_path, "      min: 1\n      environment: { MODE: new }\n"))
    assert broker.run("reload").returncode == 0
    eventually(lambda: len(noted(tmp_path, "start")) == 3, within=60)
    eventually(lambda: len(noted(tmp_path, "stop")) == 2, within=60)
    eventually(lambda: not alive(first))  # it says so a moment before
