#!/usr/bin/env python3
"""Renders and checks the Helm chart: `make chart`.

  chart.py check [--binaries DIR]   everything below; with DIR, every rendered configuration is
                                    also read by the service that it is for
  chart.py golden                   writes tests/golden/*.yaml anew, to be reviewed as a diff
  chart.py readme                   writes the table of values in the chart's README anew

What is checked: helm lint and template for the default, trial and HA values and for the choices
between them; each manifest against the schemas of Kubernetes; each pod against the restricted pod
security standard and against how our images behave; references between objects; wrong values are
refused by name; the renderings are those reviewed in tests/golden.
"""
import base64
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "helm/postroad"
GOLDEN = ROOT / "tests/golden"
VERSION = "1.36"
HELM = os.environ.get("HELM", "helm")

EXTERNAL = ["--set", "postgres.enabled=false,redis.enabled=false",
            "--set", "database.url=postgres://a:b@db:5432/mail,queue.url=redis://q:6379/"]
# name: arguments of helm template
RENDERINGS = {
    "default": [],
    "trial": ["-f", str(CHART / "values-trial.yaml")],
    "ha": ["-f", str(CHART / "values-ha.yaml")],
    "external-urls": EXTERNAL,
    "cert-manager": ["--set", "tls.mode=certManager,tls.issuerRef.name=le,grpcTLS.mode=certManager,grpcTLS.issuerRef.name=ca"],
    "plain-inside": ["--set", "grpcTLS.mode=disabled,networkPolicy.enabled=false,cli.enabled=false,migrations.enabled=false"],
    "own-secrets": ["--set", "tls.mode=existingSecret,tls.existingSecret=web,grpcTLS.mode=existingSecret,grpcTLS.existingSecret=in,grpcTLS.serverName=postroad"],
    "empty-dir": ["--set", "postgres.persistence.enabled=false,redis.persistence.enabled=false"],
    "claims": ["--set", "postgres.persistence.existingClaim=pg,redis.persistence.existingClaim=rd"],
    "keda": ["--set", "mda.keda.enabled=true,imapGateway.keda.enabled=true,monitoring.prometheusAddress=http://p:9090"],
    "monitored": ["--set", "monitoring.serviceMonitors.enabled=true,monitoring.prometheusRules.enabled=true,monitoring.dashboards.enabled=true,telemetry.otlpEndpoint=http://tempo:4317"],
    "small": ["--set", "pop3Gateway.enabled=false,operator.enabled=false,console.enabled=false"],
    "balancer": ["--set", "mailService.type=LoadBalancer,proxyProtocol.from={10.0.0.0/8,fd00::/8},mailService.nodePorts.smtp=30025"],
    "console": ["--set", "console.https=false,console.publicUrl=https://console.example.com,console.service.type=LoadBalancer"],
    "offline": ["--set", "image.pullPolicy=Never,image.tag=1.2,postgres.image.name=localhost/pg,redis.image.name=localhost/redis,mda.image.tag=1.3"],
}
# wrong values, and what the refusal must name
REFUSED = {
    "mda.replicas=0": ["/mda/replicas", "minimum"],
    "imapGateway.autoscaling.minReplicas=0": ["minReplicas", "minimum"],
    "smtpIngress.replica=3": ["smtpIngress", "replica"],
    "image.pullPolicy=Sometimes": ["/image/pullPolicy", "Never"],
    "image.tag=latest": ["/image/tag"],
    "hostname=mail": ["/hostname"],
    "mailService.type=Loadbalancer": ["/mailService/type", "LoadBalancer"],
    "proxyProtocol.from={everywhere}": ["/proxyProtocol/from"],
    "database.url=mysql://x": ["/database/url"],
    "runAsUser=0": ["/runAsUser"],
    "postgres.enabled=false": ["database.existingSecret.name"],
    "redis.enabled=false": ["queue.existingSecret.name"],
    "tls.mode=existingSecret": ["tls.existingSecret"],
    "grpcTLS.mode=certManager": ["grpcTLS.issuerRef.name"],
    "console.publicUrl=console": ["/console/publicUrl"],
    "mda.keda.enabled=true": ["monitoring.prometheusAddress"],
}
# Kinds of other projects: Kubernetes has no schema for them.
FOREIGN = {"Certificate", "ScaledObject", "ServiceMonitor", "PrometheusRule"}
BINARY = {"cli": "postroad"}

failures = []


def fail(where, what):
    failures.append(f"{where}: {what}")


def helm(*arguments, ok=True):
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True)
    if ok and done.returncode:
        sys.exit(f"helm {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done


def render(arguments):
    text = helm("template", "postroad", str(CHART), "--namespace", "mail", "--kube-version", VERSION, *arguments).stdout
    return text, [d for d in yaml.safe_load_all(text) if d]


def named(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def pod_of(document):
    if document["kind"] == "Pod":
        return document["metadata"], document["spec"]
    if document["kind"] in ("Deployment", "StatefulSet", "Job"):
        template = document["spec"]["template"]
        return template["metadata"], template["spec"]
    return None


def check_pod(where, spec):
    """The restricted standard (kubernetes.io/docs/concepts/security/pod-security-standards), and ours."""
    security = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            fail(where, f"{key} is set")
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser", 0) > 0:
        fail(where, "may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        fail(where, "no seccomp profile")
    if spec.get("enableServiceLinks") is not False:
        fail(where, "enableServiceLinks would set POSTROAD_* variables that a service refuses")
    allowed = {"configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim", "downwardAPI", "csi", "ephemeral"}
    volumes = {}
    for volume in spec.get("volumes", []):
        volumes[volume["name"]] = volume
        if not set(volume) - {"name"} <= allowed:
            fail(where, f"volume {volume['name']} is of a forbidden kind")
    for container in spec["containers"] + spec.get("initContainers", []):
        here = f"{where}[{container['name']}]"
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            fail(here, "may gain privileges")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            fail(here, "keeps capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            fail(here, "writes to its root")
        if "requests" not in container.get("resources", {}) or "memory" not in container["resources"].get("limits", {}):
            fail(here, "no resource requests or no memory limit")
        if not re.search(r":[^:/]+$|@sha256:", container["image"]) or container["image"].endswith(":latest"):
            fail(here, f"image {container['image']} has no fixed tag")
        for port in container.get("ports", []):
            if port["containerPort"] < 1024:
                fail(here, f"port {port['containerPort']} needs a capability")


def check_references(where, documents):
    """Names that pods, Services and scalers use are names of objects that are there."""
    have = {named(d) for d in documents}
    secrets_of_the_user = {"web", "in", "postroad-database", "postroad-queue"}
    certificates = {d["spec"]["secretName"] for d in documents if d["kind"] == "Certificate"}
    pods = [(named(d), *pod_of(d)) for d in documents if pod_of(d)]

    def secret(here, name):
        if f"Secret/{name}" not in have and name not in secrets_of_the_user | certificates:
            fail(here, f"Secret {name} is nowhere")

    for name, metadata, spec in pods:
        here = f"{where} {name}"
        claims = {v["metadata"]["name"] for d in documents if named(d) == name for v in d["spec"].get("volumeClaimTemplates", [])}
        volumes = {v["name"] for v in spec.get("volumes", [])} | claims
        for volume in spec.get("volumes", []):
            if "configMap" in volume and f"ConfigMap/{volume['configMap']['name']}" not in have:
                fail(here, f"ConfigMap {volume['configMap']['name']} is nowhere")
            if "secret" in volume:
                secret(here, volume["secret"]["secretName"])
        if spec.get("serviceAccountName") and f"ServiceAccount/{spec['serviceAccountName']}" not in have:
            fail(here, f"ServiceAccount {spec['serviceAccountName']} is nowhere")
        for container in spec["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    fail(here, f"volume {mount['name']} is nowhere")
            names = [e["name"] for e in container.get("env", [])]
            if len(names) != len(set(names)):
                fail(here, "a variable is set twice")
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    secret(here, reference["name"])
                for used in re.findall(r"\$\((\w+)\)", variable.get("value", "")):
                    # Kubernetes expands only what stands before.
                    if used not in names[: names.index(variable["name"])]:
                        fail(here, f"$({used}) is not set before {variable['name']}")
    for document in documents:
        here, spec = f"{where} {named(document)}", document.get("spec", {})
        if document["kind"] == "Service":
            matching = [p for p in pods if set(spec["selector"].items()) <= set(p[1]["labels"].items())]
            if not matching:
                fail(here, "selects no pod")
            ports = {p.get("name") for _, _, s in matching for c in s["containers"] for p in c.get("ports", [])}
            for port in spec["ports"]:
                if port["targetPort"] not in ports:
                    fail(here, f"port {port['targetPort']} is none of the pod's")
        if document["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = spec["scaleTargetRef"]["name"]
            deployment = next((d for d in documents if named(d) == f"Deployment/{target}"), None)
            if deployment is None:
                fail(here, f"Deployment {target} is nowhere")
            elif "replicas" in deployment["spec"]:
                fail(here, "an upgrade would reset what the scaler chose")
        if document["kind"] == "PodDisruptionBudget":
            if not any(set(spec["selector"]["matchLabels"].items()) <= set(p[1]["labels"].items()) for p in pods):
                fail(here, "selects no pod")
        if document["kind"] == "NetworkPolicy":
            peers = [spec["podSelector"]] + [p["podSelector"] for rule in spec.get("ingress", []) + spec.get("egress", [])
                                             for p in rule.get("from", []) + rule.get("to", []) if "podSelector" in p]
            wanted = {p["matchLabels"]["app.kubernetes.io/component"] for p in peers[:1]}
            known = {p[1]["labels"]["app.kubernetes.io/component"] for p in pods} | {"migrate", "cli"}
            if not wanted <= known:
                fail(here, f"selects {wanted - known}, which is nowhere")


def check_drain(where, document):
    """preStop, drain and what telemetry needs to be sent fit into the grace period."""
    if document["kind"] != "Deployment" or document["metadata"]["labels"]["app.kubernetes.io/component"] == "cli":
        return
    spec = document["spec"]["template"]["spec"]
    sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    config = config_of(document, where)
    drain = config["runtime"]["drain_seconds"]
    if sleep + drain + 5 > spec["terminationGracePeriodSeconds"]:
        fail(f"{where} {named(document)}", "the drain is cut by the grace period")
    spread = config.get("listener", {}).get("goodbye_spread_seconds", 0)
    if spread >= drain:
        fail(f"{where} {named(document)}", "the last goodbyes come after the drain")


CONFIGS = {}


def config_of(document, where):
    name = document["metadata"]["name"]
    text = CONFIGS[where][name]["data"]["postroad.yaml"]
    (section, config), = yaml.safe_load(text).items()
    if section != document["metadata"]["labels"]["app.kubernetes.io/component"]:
        fail(f"{where} {name}", f"section {section} is not the service's")
    return config


def check_ports(where, document):
    """What the configuration binds is what the manifest says, and nobody is called where nobody listens."""
    if document["kind"] != "Deployment" or document["metadata"]["labels"]["app.kubernetes.io/component"] == "cli":
        return
    config, here = config_of(document, where), f"{where} {named(document)}"
    bound = {int(v.rsplit(":", 1)[1]) for k, v in config.items() if k.endswith("listen") and v}
    bound.add(int(config["runtime"]["http_listen"].rsplit(":", 1)[1]))
    said = {p["containerPort"] for p in document["spec"]["template"]["spec"]["containers"][0]["ports"]}
    if bound != said:
        fail(here, f"listens on {sorted(bound)}, the manifest says {sorted(said)}")
    services = {d["metadata"]["name"]: {p["port"] for p in d["spec"]["ports"]} for d in ALL[where] if d["kind"] == "Service"}
    for key in ("mda", "auth_checker"):
        if key in config:
            host, port = config[key].rsplit(":", 1)
            if int(port) not in services.get(host, ()):
                fail(here, f"{key} = {config[key]} is no Service's port")


ALL = {}


def check_binary(where, document, binaries):
    """The service itself reads its configuration as rendered."""
    pod = pod_of(document)
    component = document["metadata"]["labels"]["app.kubernetes.io/component"]
    if pod is None or component in ("postgres", "redis", "cli"):
        return
    binary = binaries / ("mda" if component == "migrate" else component)
    if not binary.is_file():
        return fail(f"{where} {named(document)}", f"{binary} is missing: cargo build --workspace")
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": "/bin"}
        for variable in pod[1]["containers"][0].get("env", []):
            value = variable.get("value")
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                url = "redis://h:1/" if "REDIS" in variable["name"] else "postgres://u@h/d"
                key = base64.b64encode(bytes(32)).decode() if "ENCRYPTION" in variable["name"] else "secret"
                value = url if variable["name"].endswith("_URL") else key
            value = re.sub(r"\$\((\w+)\)", lambda m: environment[m.group(1)], value or "x")
            environment[variable["name"]] = value
        if "POSTROAD_CONFIG" in environment:
            file = pathlib.Path(folder, "postroad.yaml")
            file.write_text(CONFIGS[where][document["metadata"]["name"]]["data"]["postroad.yaml"])
            environment["POSTROAD_CONFIG"] = str(file)
        done = subprocess.run([binary, "--check"], env=environment, capture_output=True, text=True)
        if done.returncode:
            fail(f"{where} {named(document)}", done.stderr.strip())


def settled(documents):
    """Without what is random: keys and passwords."""
    for document in documents:
        if document["kind"] == "Secret":
            for key in document.get("data", {}):
                base64.b64decode(document["data"][key], validate=True)
                document["data"][key] = "…"
    text = yaml.safe_dump_all(documents, sort_keys=True, allow_unicode=True, width=110)
    return text


def check_values():
    """Every value has a comment, and the schema knows every value."""
    comments, pending = set(), False
    lines = (CHART / "values.yaml").read_text().splitlines()
    path = []
    for number, line in enumerate(lines):
        if not line.strip() or line.strip().startswith("#"):
            pending = pending or "# --" in line
            continue
        indent = (len(line) - len(line.lstrip())) // 2
        path = path[:indent] + [line.strip().split(":")[0]]
        is_leaf = number + 1 == len(lines) or not lines[number + 1].startswith("  " * (indent + 1))
        if is_leaf and not pending and "requests" not in path and "limits" not in path:
            fail("values.yaml", f"{'.'.join(path)} has no comment")
        pending = False
    return comments


def table():
    """Rows of the README: key, default, comment."""
    rows, comment, path = [], [], []
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith("# --"):
            comment = [stripped[4:].strip()]
        elif stripped.startswith("#"):
            comment = comment + [stripped[1:].strip()] if comment else []
        elif stripped:
            indent = (len(line) - len(line.lstrip())) // 2
            key, _, value = stripped.partition(":")
            path = path[:indent] + [key]
            if comment:
                rows.append(f"| `{'.'.join(path)}` | `{value.strip() or '…'}` | {' '.join(comment).replace('|', chr(92) + '|')} |")
            comment = []
        else:
            comment = []
    return "\n".join(["| Key | Default | |", "|---|---|---|", *rows])


def readme():
    text = (CHART / "README.md").read_text()
    head = text.split("<!-- values -->")[0]
    return f"{head}<!-- values -->\n{table()}\n"


def check(binaries):
    for name in ("default", "trial", "ha"):
        done = helm("lint", "--strict", str(CHART), *RENDERINGS[name], ok=False)
        if done.returncode:
            fail(f"helm lint, {name}", done.stdout)
    count = 0
    for where, arguments in RENDERINGS.items():
        text, documents = render(arguments)
        ALL[where] = documents
        CONFIGS[where] = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ConfigMap"}
        seen = set()
        for document in documents:
            count += 1
            here = f"{where} {named(document)}"
            hooks = document["metadata"].get("annotations", {}).get("helm.sh/hook", "")
            if (named(document), hooks) in seen:
                fail(here, "is there twice")
            seen.add((named(document), hooks))
            if document["kind"] not in FOREIGN:
                try:
                    kubernetes_validate.validate(document, VERSION, strict=True)
                except kubernetes_validate.ValidationError as error:
                    fail(here, f"{'.'.join(map(str, error.path))}: {error.message}")
            if pod := pod_of(document):
                check_pod(here, pod[1])
            check_drain(where, document)
            check_ports(where, document)
            if binaries and where in ("default", "trial", "ha", "external-urls", "own-secrets", "balancer"):
                check_binary(where, document, binaries)
        check_references(where, documents)
        golden = GOLDEN / f"{where}.yaml"
        if where in ("default", "trial", "ha") and (not golden.is_file() or golden.read_text() != settled(documents)):
            fail(f"tests/golden/{where}.yaml", "is not what the chart renders: review the diff of deploy/chart.py golden")
    for setting, words in REFUSED.items():
        done = helm("template", "x", str(CHART), "--set", setting, ok=False)
        answer = done.stdout + done.stderr
        if done.returncode == 0:
            fail(f"--set {setting}", "is not refused")
        elif missing := [w for w in words if w not in answer]:
            fail(f"--set {setting}", f"the refusal does not name {missing}: {answer}")
    check_values()
    if (CHART / "README.md").read_text() != readme():
        fail("helm/postroad/README.md", "its table is not that of values.yaml: deploy/chart.py readme")
    if failures:
        sys.exit("\n".join(failures) + f"\n{len(failures)} failures")
    print(f"{len(RENDERINGS)} renderings, {count} manifests right for Kubernetes {VERSION}, {len(REFUSED)} wrong values refused")


def main():
    match sys.argv[1:]:
        case ["check"]:
            check(None)
        case ["check", "--binaries", folder]:
            check(pathlib.Path(folder))
        case ["golden"]:
            GOLDEN.mkdir(exist_ok=True)
            for name in ("default", "trial", "ha"):
                (GOLDEN / f"{name}.yaml").write_text(settled(render(RENDERINGS[name])[1]))
        case ["readme"]:
            (CHART / "README.md").write_text(readme())
        case _:
            sys.exit(__doc__)


main()
