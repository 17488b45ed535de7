"""The brokers that are measured, Tocsin and its peers, each on free ports in its own directory.

A server has start(), kill() (SIGKILL), stop(), rss() and `address`. absent() says why it cannot be
had, or nothing.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time

POLL = 0.005
START_WITHIN = 120.0
KAFKA_VERSION = "3.9.1"
RABBIT_BIN = "/usr/lib/rabbitmq/bin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def version_of(*command):
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return ""
    return (told.stdout + told.stderr).strip()


class Server:
    """One process and what it stores; the process ends with its whole group."""

    env = None

    def __init__(self, directory):
        self.dir = os.path.join(directory, self.name.replace(" ", "-"))
        os.makedirs(self.dir, exist_ok=True)
        self.port = free_port()
        self.process = None

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    def command(self):
        raise NotImplementedError

    def serves(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def spawn(self):
        """Starts it and waits for nothing; the time in ns of the wall clock."""
        with open(os.path.join(self.dir, "log"), "ab") as log:
            begun = time.time_ns()
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=self.env,
                                            start_new_session=True)
        return begun

    def start(self):
        self.spawn()
        deadline = time.monotonic() + START_WITHIN
        while not self.serves():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("%s did not start:\n%s" % (self.name, self.log()[-3000:]))
            time.sleep(POLL)
        return self

    def log(self):
        with open(os.path.join(self.dir, "log"), encoding="utf-8", errors="replace") as lines:
            return lines.read()

    def _signal(self, number):
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)

    def kill(self):
        self._signal(signal.SIGKILL)

    def stop(self):
        self._signal(signal.SIGTERM)

    def rss(self, which="VmRSS:"):
        """Resident bytes of the process, now or (VmHWM) at most."""
        with open("/proc/%d/status" % self.process.pid, encoding="utf-8") as status:
            for line in status:
                if line.startswith(which):
                    return int(line.split()[1]) * 1024
        return 0


class Tocsin(Server):
    durability = "durable"

    def __init__(self, directory, tools, durability="durable", triggers=None, broker="",
                 partitions=None):
        self.name = "tocsin " + durability
        self.tools = tools
        super().__init__(directory)
        self.http = free_port()
        self.config = os.path.join(self.dir, "tocsin.yaml")
        self.data = os.path.join(self.dir, "data")
        with open(self.config, "w", encoding="utf-8") as out:
            out.write("version: 1\nbroker:\n  listen: %s\n  http: 127.0.0.1:%d\n"
                      "  durability: %s\n  retention: { size: 16GiB }\n%s%s%s"
                      % (self.address, self.http, durability,
                         "  partitions: %d\n" % partitions if partitions else "", broker,
                         triggers or one_trigger()))

    def command(self):
        return [self.tools.tocsin, "serve", "-c", self.config, "--data-dir", self.data]

    def serves(self):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            with open(os.path.join(self.data, "endpoints.json"), encoding="utf-8") as told:
                return json.load(told)["pid"] == self.process.pid
        return False

    @staticmethod
    def absent(_):
        return ""


def one_trigger():
    return ("functions: { count: {} }\ntriggers:\n  bench:\n    filters:\n"
            "      - exact: { type: bench.matched }\n    function: count\n")


class Nats(Server):
    def __init__(self, directory, tools, sync=""):
        self.name = "nats" + (" sync" if sync else "")
        self.tools = tools
        super().__init__(directory)
        self.config = os.path.join(self.dir, "nats.conf")
        with open(self.config, "w", encoding="utf-8") as out:
            out.write("listen: %s\njetstream {\n  store_dir: \"%s\"\n%s}\n"
                      % (self.address, self.dir, "  sync_interval: %s\n" % sync if sync else ""))

    def command(self):
        return [self.tools.nats_server, "-c", self.config]

    @staticmethod
    def absent(tools):
        return "" if os.path.exists(tools.nats_server) else \
            "nats-server was not built: make peers (it needs a Go of tests/bench/peers/go.mod)"

    @staticmethod
    def version(tools):
        return version_of(tools.nats_server, "-v").replace("nats-server: ", "nats-server ")


class Redis(Server):
    def __init__(self, directory, _, appendfsync="always"):
        self.name = "redis " + appendfsync
        self.appendfsync = appendfsync
        super().__init__(directory)

    def command(self):
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.dir,
                "--save", "", "--appendonly", "yes", "--appendfsync", self.appendfsync,
                # A rewrite of the file within a round would slow it several times.
                "--auto-aof-rewrite-percentage", "0"]

    def serves(self):
        with contextlib.suppress(OSError), \
                socket.create_connection(("127.0.0.1", self.port), 1) as asked:
            asked.sendall(b"PING\r\n")
            return asked.recv(5) == b"+PONG"
        return False

    @staticmethod
    def absent(_):
        return "" if shutil.which("redis-server") else \
            "redis-server is missing: deploy/install-deps --peers"

    @staticmethod
    def version(_):
        return " ".join(version_of("redis-server", "--version").split()[:3])


KAFKA_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://{address}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={dir}/kraft
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class Kafka(Server):
    def __init__(self, directory, tools):
        self.name = "kafka"
        super().__init__(directory)
        self.jars = self.class_path(tools)
        self.properties = os.path.join(self.dir, "server.properties")
        with open(self.properties, "w", encoding="utf-8") as out:
            out.write(KAFKA_PROPERTIES.format(address=self.address, controller=free_port(),
                                              dir=self.dir))
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c",
                       self.properties), capture_output=True, text=True, timeout=START_WITHIN,
            check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stdout + done.stderr)

    def _java(self, main, *words):
        # The options of Kafka's own start script, but for the size of the heap: as there.
        return ["java", "-Xmx1g", "-Xms1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", self.jars, main, *words]

    def command(self):
        return self._java("kafka.Kafka", self.properties)

    @staticmethod
    def class_path(tools):
        path = os.path.join(tools.kafka_jars, "kafka-%s.classpath" % KAFKA_VERSION)
        if not os.path.exists(path):
            return ""
        with open(path, encoding="utf-8") as told:
            jars = told.read().strip()
        return jars if all(os.path.exists(jar) for jar in jars.split(":")) else ""

    @staticmethod
    def absent(tools):
        if not shutil.which("java"):
            return "java is missing: deploy/install-deps --peers"
        return "" if Kafka.class_path(tools) else "the jars of Kafka are missing: make peers"

    @staticmethod
    def version(_):
        return "Apache Kafka " + KAFKA_VERSION


class Rabbit(Server):
    def __init__(self, directory, _):
        self.name = "rabbitmq"
        super().__init__(directory)
        self.epmd = free_port()
        plugins = os.path.join(self.dir, "enabled_plugins")
        with open(plugins, "w", encoding="utf-8") as out:
            out.write("[].\n")
        config = os.path.join(self.dir, "rabbitmq.conf")
        with open(config, "w", encoding="utf-8") as out:
            out.write("listeners.tcp.1 = %s\nloopback_users = none\n" % self.address)
        self.env = dict(
            os.environ, HOME=self.dir, RABBITMQ_NODENAME="bench%d@localhost" % self.port,
            RABBITMQ_MNESIA_BASE=os.path.join(self.dir, "mnesia"), RABBITMQ_LOGS="-",
            RABBITMQ_LOG_BASE=self.dir, RABBITMQ_CONFIG_FILE=config,
            RABBITMQ_ENABLED_PLUGINS_FILE=plugins, RABBITMQ_DIST_PORT=str(free_port()),
            ERL_EPMD_PORT=str(self.epmd), ERL_EPMD_ADDRESS="127.0.0.1",
            RABBITMQ_PID_FILE=os.path.join(self.dir, "pid"))

    def command(self):
        return [os.path.join(RABBIT_BIN, "rabbitmq-server")]

    def _signal(self, number):
        super()._signal(number)
        # Its port mapper is a daemon of its own, on a port of this server alone.
        subprocess.run(["epmd", "-port", str(self.epmd), "-kill"], capture_output=True, check=False)

    @staticmethod
    def absent(_):
        return "" if os.path.exists(os.path.join(RABBIT_BIN, "rabbitmq-server")) else \
            "rabbitmq-server is missing: deploy/install-deps --peers"

    @staticmethod
    def version(_):
        told = version_of("dpkg-query", "-W", "-f=${Version}", "rabbitmq-server")
        return "RabbitMQ " + told.split("-")[0]
