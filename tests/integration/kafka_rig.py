"""A real Apache Kafka in KRaft mode: one broker on free ports, from the jars of Maven Central.

The jars are fetched once by Maven into its own cache. What is missing fails.
"""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess

from fault_rig import eventually
from queue_rig import free_port

VERSION = "3.9.1"
START_WITHIN = 300.0
POM = """<project><modelVersion>4.0.0</modelVersion><groupId>t</groupId>
<artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>%s</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
<version>%s</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>
<version>1.7.36</version></dependency></dependencies></project>
""" % (VERSION, VERSION)
PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl},\
SSL://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl},\
SSL://localhost:{tls}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,\
SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL
listener.name.ssl.ssl.keystore.type=PEM
listener.name.ssl.ssl.keystore.location={dir}/server.pem
listener.name.ssl.ssl.truststore.type=PEM
listener.name.ssl.ssl.truststore.location={dir}/ca.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_ann="hunter2";
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs={dir}/kraft
auto.create.topics.enable=false
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=0
file.delete.delay.ms=0
"""


def class_path(folder):
    """The jars, fetched if they are not there; one fetch at a time."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "kafka-%s.classpath" % VERSION)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as told:
            jars = told.read().strip()
        if all(os.path.exists(jar) for jar in jars.split(":")):
            return jars
    maven = shutil.which("mvn")
    assert maven, "mvn is missing: run deploy/install-deps --tests"
    with open(os.path.join(folder, "pom.xml"), "w", encoding="utf-8") as pom:
        pom.write(POM)
    done = subprocess.run([maven, "-q", "-B", "dependency:build-classpath",
                           "-Dmdep.outputFile=" + path], cwd=folder, capture_output=True, text=True,
                          timeout=900, check=False)
    assert done.returncode == 0, "the jars of Kafka could not be fetched:\n" + done.stdout[-2000:]
    with open(path, encoding="utf-8") as told:
        return told.read().strip()


def make_certificates(folder):
    """ca.pem, and of the server and a client NAME.key, NAME.crt and both in NAME.pem."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing: run deploy/install-deps --tests"

    def run(*words):
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)

    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test-ca",
        "-keyout", "ca.key", "-out", "ca.pem")
    with open(os.path.join(folder, "names"), "w", encoding="utf-8") as names:
        names.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=" + name, "-keyout",
            name + ".key", "-out", name + ".csr")
        run("x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", name + ".crt")
        with open(os.path.join(folder, name + ".pem"), "wb") as both:
            for part in (".key", ".crt"):
                with open(os.path.join(folder, name + part), "rb") as one:
                    both.write(one.read())


class Kafka:
    """One broker; what it holds outlives kill() and start()."""

    def __init__(self, directory):
        self.dir = os.path.join(str(directory), "kafka")
        os.makedirs(self.dir, exist_ok=True)
        java = shutil.which("java")
        assert java, "java is missing: run deploy/install-deps --tests"
        self.java = java
        self.jars = class_path(os.environ["TOCSIN_KAFKA_JARS"])
        self.port, self.sasl_port, self.tls_port = free_port(), free_port(), free_port()
        make_certificates(self.dir)
        self.properties = os.path.join(self.dir, "server.properties")
        with open(self.properties, "w", encoding="utf-8") as out:
            out.write(PROPERTIES.format(port=self.port, sasl=self.sasl_port, tls=self.tls_port,
                                        controller=free_port(), dir=self.dir))
        self.process = None
        self._run("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c",
                  self.properties, "-S", "SCRAM-SHA-512=[name=bob,password=swordfish]")
        self.start()

    @property
    def address(self):
        return "127.0.0.1:%d" % self.port

    def _command(self, main, *words):
        return [self.java, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", self.jars, main, *words]

    def _run(self, main, *words):
        done = subprocess.run(self._command(main, *words), capture_output=True, text=True,
                              timeout=START_WITHIN, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(self._command("kafka.Kafka", self.properties),
                                            stdout=log, stderr=log, start_new_session=True)

        def answers():
            assert self.process.poll() is None, "Kafka ended:\n" + self.log()[-3000:]
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            return False

        eventually(answers, within=START_WITHIN)
        return self

    def log(self):
        with open(os.path.join(self.dir, "log"), encoding="utf-8", errors="replace") as lines:
            return lines.read()

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(20)

    def segments(self, topic, partition=0):
        return glob.glob(os.path.join(self.dir, "kraft", "%s-%d" % (topic, partition), "*.log"))
