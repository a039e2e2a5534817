#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Migrates the same guest under QEMU and under rdma-migrate, in turn, and prints ratios. Called by ./run."""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

MIB = 1 << 20
TOUCHED = 2 * MIB       # by a guest that touches next to nothing
PARAM = 0x180000          # guest.S
LOW = 3 << 30           # RAM below 4 GiB of the pc machine, when there is more than that
TICK_MS = 2
BACK = 0.9              # of the speed before
CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"


class Failure(Exception):
    pass


def build_guest(folder):
    """Builds guest.S, the guest for QEMU; returns its path."""
    guest = os.path.join(folder, "guest")
    cmd = ["gcc", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000", "-Wl,--build-id=none", "-o", guest,
           os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest.S")]
    out = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if out.returncode:
        raise Failure(f"the guest for QEMU does not build: {out.stdout.strip()}")
    return guest


def qemu_version(binary):
    try:
        return subprocess.run([binary, "--version"], stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]
    except (OSError, IndexError) as e:
        raise Failure(f"{binary} does not run: {e}") from e


def tsc_hz():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("cpu MHz"):
                return float(line.split(":")[1]) * 1e6
    raise Failure("/proc/cpuinfo gives no cpu MHz")


class Ticks(threading.Thread):
    """Records the time of each byte from a guest's debug port."""

    def __init__(self, pipe):
        super().__init__(daemon=True)
        self.pipe, self.at, self.full = pipe, [], threading.Event()
        self.start()

    def run(self):
        while chunk := os.read(self.pipe.fileno(), 4096):
            now = time.monotonic()
            for byte in chunk:
                if byte == ord("F"):
                    self.full.set()
                else:
                    self.at.append(now)

    def rate(self, begin, end):
        return sum(begin <= t < end for t in self.at) / (end - begin)


class Qemu:
    def __init__(self, binary, guest, cfg, folder, name, incoming):
        size = cfg["memory"]
        low, high = (size, 0) if size <= LOW else (LOW, size - LOW)
        ticks_s = 1000 // TICK_MS
        param = (low, high, cfg["working_set"] if cfg["rate"] else 0, cfg["rate"] // ticks_s,
                 int(tsc_hz() / ticks_s)) if cfg["populate"] else (TOUCHED, 0, 0, 0, 0)
        path = os.path.join(folder, name)
        backend = "memory-backend-memfd,share=on" if cfg["kind"] == "memfd" else "memory-backend-ram"
        prealloc = cfg["populate"] and not (cfg["fresh"] and incoming)
        cmd = [binary, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-cpu", "max",
               "-object", f"{backend},id=ram,size={size},prealloc={'on' if prealloc else 'off'}",
               "-machine", "pc,memory-backend=ram,max-ram-below-4g=%d" % LOW, "-m", str(size // MIB),
               "-chardev", "stdio,id=port", "-device", "isa-debugcon,iobase=0xe9,chardev=port",
               "-qmp", f"unix:{path},server=on,wait=off"]
        cmd += ["-incoming", "defer"] if incoming else []
        cmd += ["-kernel", guest]
        for i, value in enumerate(param):
            cmd += ["-device", f"loader,addr={PARAM + 8 * i:#x},data={value:#x},data-len=8"]
        self.log = open(path + ".log", "w+")
        self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log)
        self.ticks = Ticks(self.proc.stdout)
        self.events = []
        self.connect(path)

    def connect(self, path):
        for _ in range(600):
            if self.proc.poll() is not None:
                self.dead()
            try:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                time.sleep(0.1)
        self.file = self.sock.makefile("rw")
        self.line()
        self.cmd("qmp_capabilities")

    def dead(self):
        self.proc.wait()
        self.log.seek(0)
        raise Failure(f"QEMU has ended with {self.proc.returncode}: {self.log.read().strip()}")

    def line(self):
        try:
            text = self.file.readline()
        except OSError:
            text = ""
        return json.loads(text) if text else self.dead()

    def cmd(self, name, **arguments):
        self.file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = self.line()
            if "event" in answer:
                stamp = answer["timestamp"]
                self.events.append((answer["event"], stamp["seconds"] + stamp["microseconds"] / 1e6))
            elif "error" in answer:
                raise Failure(f"{name}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def cpu(self):
        with open(f"/proc/{self.proc.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.proc.kill()
        self.proc.wait()
        self.sock.close()
        self.log.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def back_at_speed(ticks, stopped, before):
    """Milliseconds from the stop until the first 50 ms at the target with nine tenths of the ticks before it."""
    at = [t for t in ticks.at if t > stopped]
    need = max(1, int(BACK * before * 0.05))
    for i in range(len(at) - need):
        if at[i + need] - at[i] <= 0.05:
            return (at[i] - stopped) * 1000
    return None


def wait_done(src, dst, postcopy):
    started = False
    while True:
        info = src.cmd("query-migrate")
        if info["status"] == "completed":
            return info
        if info["status"] in ("failed", "cancelled"):
            raise Failure(f"QEMU's migration {info['status']}: {info.get('error-desc')}")
        if postcopy and not started and info.get("ram", {}).get("dirty-sync-count", 0) >= 2:
            src.cmd("migrate-start-postcopy")
            started = True
        time.sleep(0.005)


def run_qemu(args, cfg, variant, folder, n):
    src = Qemu(args.qemu, args.guest, cfg, folder, f"src{n}", False)
    dst = None
    try:
        dst = Qemu(args.qemu, args.guest, cfg, folder, f"dst{n}", True)
        if cfg["populate"] and not src.ticks.full.wait(300):
            raise Failure("the guest has not filled its RAM within 300 s")
        caps = [{"capability": c, "state": True} for c in variant["caps"]]
        params = {"max-bandwidth": 100 << 30, "max-postcopy-bandwidth": 0, "downtime-limit": 300,
                  **variant.get("params", {})}
        for end in (src, dst):
            end.cmd("migrate-set-capabilities", capabilities=caps)
            end.cmd("migrate-set-parameters", **params)
        port = free_port()
        dst.cmd("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")
        time.sleep(1 if cfg["rate"] else 0.2)   # a second of undisturbed guest to measure its speed in
        begin, cpu = time.monotonic(), src.cpu() + dst.cpu()
        before = src.ticks.rate(begin - 0.9, begin) if cfg["rate"] else 0
        src.cmd("migrate", uri=f"tcp:127.0.0.1:{port}")
        info = wait_done(src, dst, "postcopy-ram" in variant["caps"])
        cpu = src.cpu() + dst.cpu() - cpu
        res = {"total_ms": info["total-time"], "downtime_ms": info["downtime"], "cpu_s": cpu,
               "bytes": info["ram"]["transferred"]}
        if cfg["rate"]:
            stopped = src.ticks.at[-1]
            deadline = time.monotonic() + 20
            while (back := back_at_speed(dst.ticks, stopped, before)) is None and time.monotonic() < deadline:
                time.sleep(0.05)
            res["rate"] = before * (cfg["rate"] // (1000 // TICK_MS))
            res["back_ms"] = back
        return res
    finally:
        src.close()
        if dst:
            dst.close()


def ferry_speed(record, asked):
    """From a recording: the guest's writes per second before the stop, and when they reached that rate again."""
    stopped, src, dst = None, [], []
    with open(record) as f:
        for line in f:
            x = json.loads(line)
            if x["type"] == "event" and x["end"] == "source" and x["phase"] == "stop-and-copy" and stopped is None:
                stopped = x["t_us"] / 1e6
            elif x["type"] == "sample":
                (src if x["end"] == "source" else dst).append((x["t_us"] / 1e6, x["stamps"]))
    rounds = [p for p in src if p[0] <= stopped]
    rate = (rounds[-1][1] - rounds[0][1]) / (rounds[-1][0] - rounds[0][0])
    dst = [p for p in dst if p[0] > stopped]
    last = 0
    for i, (t, stamps) in enumerate(dst):
        while last < len(dst) and dst[last][0] < t + 0.05:
            last += 1
        if last == len(dst):
            break
        if stamps and dst[last][1] - stamps >= BACK * asked * (dst[last][0] - t):
            return rate, (t - stopped) * 1000
    return rate, None


def run_ferry(args, cfg, variant, folder, n):
    path = os.path.join(folder, f"ferry{n}.json")
    record = os.path.join(folder, f"ferry{n}.record")
    cmd = [args.ferry, "run", "--memory", str(cfg["memory"]), "--memory-kind", cfg["kind"], "--thp", "auto", "--dirty-rate", str(cfg["rate"]),
           "--working-set", str(cfg["working_set"] or TOUCHED), "--populate", str(100 if cfg["populate"] else 0),
           "--prealloc", "on" if cfg["populate"] and not cfg["fresh"] else "off", "--mode", variant["mode"], "--channels", str(variant.get("channels", 1)),
           "--max-rounds", str(variant.get("rounds", 30)), "--floor", "off", "--quiet", "--json", path]
    if cfg["rate"]:
        cmd += ["--record", record]
    out = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if out.returncode:
        raise Failure(f"{' '.join(cmd)} ended with {out.returncode}: {out.stdout.strip()}")
    with open(path) as f:
        r = json.loads(f.readlines()[-1])
    cpu_ms = sum(r["cpu_ms"][end + phase] for end in ("source", "target") for phase in ("_precopy", "_postcopy"))
    res = {"total_ms": r["precopy_ms"] + r["downtime_us"] / 1000 + r["postcopy_ms"],
           "downtime_ms": r["downtime_us"] / 1000, "cpu_s": cpu_ms / 1000,
           "bytes": r["bytes_sent"]}
    if cfg["rate"]:
        res["rate"], res["back_ms"] = ferry_speed(record, cfg["rate"])
    return res


QEMU = [
    {"name": "plain", "caps": [], "for": ("idle", "fresh", "untouched", "dirty")},
    {"name": "multifd 1", "caps": ["multifd"], "params": {"multifd-channels": 1}, "for": ("idle",)},
    {"name": "multifd 2", "caps": ["multifd"], "params": {"multifd-channels": 2}, "for": ("idle", "fresh")},
    {"name": "multifd 4", "caps": ["multifd"], "params": {"multifd-channels": 4}, "for": ("idle", "fresh")},
    {"name": "auto-converge", "caps": ["auto-converge"], "for": ("dirty",)},
    {"name": "post-copy", "caps": ["postcopy-ram"], "for": ("dirty",)},
    {"name": "postcopy-preempt", "caps": ["postcopy-ram", "postcopy-preempt"], "for": ("dirty",)},
]
FERRY = [
    {"name": "stop-and-copy", "mode": "stop-and-copy", "for": ("idle", "fresh", "untouched", "dirty")},
    {"name": "2 channels", "mode": "stop-and-copy", "channels": 2, "for": ("idle", "fresh")},
    {"name": "post-copy", "mode": "post-copy", "for": ("dirty",)},
    {"name": "post-copy after one pass", "mode": "post-copy", "rounds": 1, "for": ("dirty",)},
]


def cases(args):
    base = {"memory": args.idle, "working_set": 0, "rate": 0, "populate": True, "fresh": False, "kind": "anon"}
    yield "idle", f"idle, {args.idle // MIB} MiB populated", base
    for kind in ("anon", "memfd"):
        yield "fresh", f"idle, {args.fresh // MIB} MiB populated, {kind}, a target that has allocated nothing", \
            {**base, "memory": args.fresh, "fresh": True, "kind": kind}
    yield "untouched", f"untouched, {args.untouched // MIB} MiB", {**base, "memory": args.untouched, "populate": False}
    for ws in args.working_sets:
        yield "dirty", f"{ws} MiB written at {args.rate} pages/s, {args.busy // MIB} MiB", \
            {**base, "memory": args.busy, "working_set": ws * MIB, "rate": args.rate}


def median(results, key):
    values = [r[key] for r in results if r.get(key) is not None]
    return statistics.median(values) if values else None


def show(value, digits=1):
    return "-" if value is None else f"{value:,.{digits}f}"


def table(kind, cfg, all_results):
    """Prints one row per variant; the others are compared with the first."""
    gib = cfg["memory"] / (1 << 30)
    print(f"  {'':26} {'MB/s':>9} {'total ms':>10} {'spread':>17} {'downtime ms':>12} {'CPU s/GiB':>10}"
          + (f" {'at 90 % ms':>11} {'pages/s':>9}" if kind == "dirty" else ""))
    for name, results in all_results.items():
        if not results:
            print(f"  {name:26} no run finished")
            continue
        total = [r["total_ms"] for r in results]
        m = statistics.median(total)
        row = (f"  {name:26} {show(cfg['memory'] / 1e3 / m, 0):>9} {show(m):>10} "
               f"{show(min(total), 0) + ' to ' + show(max(total), 0):>17} {show(median(results, 'downtime_ms')):>12} "
               f"{show(median(results, 'cpu_s') / gib, 2):>10}")
        if kind == "dirty":
            row += f" {show(median(results, 'back_ms'), 0):>11} {show(median(results, 'rate'), 0):>9}"
        print(row)


def ratio(title, ours, theirs, larger_is_better):
    if not ours or not theirs:
        return f"  {title}: not measured"
    value = (theirs / ours) if larger_is_better else (ours / theirs)
    return f"  {title}: {value:.3f}"


def ratios(kind, res):
    ferry = {n: r for n, r in res.items() if n.startswith("ferry") and r}
    qemu = {n: r for n, r in res.items() if n.startswith("QEMU") and r}

    def best(group, key, *only):
        found = [v for n, r in group.items() if (not only or any(o in n for o in only)) and (v := median(r, key)) is not None]
        return min(found) if found else None

    if kind in ("idle", "fresh", "untouched"):
        print(ratio("speed, times QEMU's best", best(ferry, "total_ms"), best(qemu, "total_ms"), True))
        print(ratio("CPU, of QEMU's best", best(ferry, "cpu_s"), best(qemu, "cpu_s"), False))
    else:
        print(ratio("downtime in pre-copy, of QEMU's best", best(ferry, "downtime_ms", "stop-and-copy"),
                    best(qemu, "downtime_ms", "plain", "auto-converge"), False))
        print(ratio("downtime in post-copy, of QEMU's best", best(ferry, "downtime_ms", "post-copy"),
                    best(qemu, "downtime_ms", "post"), False))
        print(ratio("guest at 90 % of its speed in post-copy, of QEMU's best", best(ferry, "back_ms", "post-copy"),
                    best(qemu, "back_ms", "post"), False))
        print(ratio("the same, both after one pass", best(ferry, "back_ms", "one pass"), best(qemu, "back_ms", "post"), False))


def compare(args, folder):
    n = 0
    for kind, title, cfg in cases(args):
        if args.only and kind not in args.only:
            continue
        variants = [("ferry " + v["name"], run_ferry, v) for v in FERRY if kind in v["for"]]
        variants += [("QEMU " + v["name"], run_qemu, v) for v in QEMU if kind in v["for"]]
        results = {name: [] for name, _, _ in variants}
        print(f"{title}: {args.repeat} runs of each, in turn", flush=True)
        for _ in range(args.repeat):
            for name, run, variant in variants:
                n += 1
                try:
                    results[name].append(run(args, cfg, variant, folder, n))
                except Failure as e:
                    print(f"  {name}: {e}", flush=True)
        table(kind, cfg, results)
        ratios(kind, results)
        print(flush=True)


def set_congestion(name):
    try:
        with open(CONGESTION, "w") as f:
            f.write(name)
    except OSError as e:
        raise Failure(f"{CONGESTION}: {e.strerror}: root may set what tcp_available_congestion_control lists")


@contextlib.contextmanager
def congestion(name):
    """Sets the host's congestion control to name for the duration of the block."""
    with open(CONGESTION) as f:
        before = f.read().strip()
    if name:
        set_congestion(name)
    try:
        yield name or before
    finally:
        if name:
            set_congestion(before)


def size(text):
    unit = {"M": MIB, "G": 1 << 30}.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def main():
    p = argparse.ArgumentParser(prog="bench/qemu/run", description="Runs QEMU and ferry in turn on the same machine and compares them.")
    p.add_argument("--ferry", required=True, help=argparse.SUPPRESS)
    p.add_argument("--qemu", default="qemu-system-x86_64", help="the binary (default: %(default)s)")
    p.add_argument("--repeat", type=int, default=10, help="runs of each variant (default: %(default)s)")
    p.add_argument("--idle", type=size, default=size("4G"), help="RAM of the idle guests (default: 4G)")
    p.add_argument("--fresh", type=size, default=size("2G"), help="RAM of the guests whose target has allocated nothing (default: 2G)")
    p.add_argument("--untouched", type=size, default=size("16G"), help="RAM of the guests that touch 2 MiB (default: 16G)")
    p.add_argument("--busy", type=size, default=size("2G"), help="RAM of the writing guests (default: 2G)")
    p.add_argument("--congestion", help="set the host's congestion control for the runs, such as cubic, because QEMU uses the host's")
    p.add_argument("--rate", type=int, default=100000, help="pages written per second (default: %(default)s)")
    p.add_argument("--working-sets", type=lambda t: [int(x) for x in t.split(",")], default=[64, 256, 1024],
                   help="MiB of the working sets (default: 64,256,1024)")
    p.add_argument("--only", nargs="*", choices=["idle", "fresh", "untouched", "dirty"], help="only these cases")
    args = p.parse_args()
    version = qemu_version(args.qemu)
    with tempfile.TemporaryDirectory(prefix="bench-qemu-") as folder, congestion(args.congestion) as control:
        args.guest = build_guest(folder)
        print(f"{version}; software emulation, loopback TCP ({control}), both ends' RAM allocated beforehand unless stated.\n"
              "MB/s: RAM moved in the total time. Medians.\n", flush=True)
        compare(args, folder)


if __name__ == "__main__":
    try:
        main()
    except (Failure, KeyboardInterrupt) as e:
        sys.exit(f"bench/qemu: {e}")
