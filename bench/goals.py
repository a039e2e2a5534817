# SPDX-License-Identifier: MIT
"""Measures each performance goal by real runs of this build, one row per goal. Started by bench/goals."""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "qemu"))
sys.dont_write_bytecode = True
import compare
from compare import Failure

GIB = 1 << 30
MIB = 1 << 20


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.n, self.missed = args, folder, 0, 0

    def _last_line(self, cmd, path=None):
        out = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if out.returncode:
            raise Failure(f"{' '.join(cmd)} ended with {out.returncode}: {(out.stdout + out.stderr).strip()[-400:]}")
        if not path:
            return json.loads(out.stdout.splitlines()[-1])
        with open(path) as f:
            return json.loads(f.readlines()[-1])

    def run(self, record=False, floor="off", thp="off", **options):
        """Runs one migration; returns its JSON object, with record=True also the recording's lines as "record".
        On small pages unless thp says otherwise."""
        self.n += 1
        path = os.path.join(self.folder, f"{self.n}.json")
        cmd = [os.path.join(self.args.build, "rdma-migrate"), "run", "--quiet", "--floor", floor, "--thp", thp, "--json", path]
        for name, value in options.items():
            cmd += ["--" + name.replace("_", "-"), str(value)]
        if record:
            cmd += ["--record", path + "l"]
        res = self._last_line(cmd, path)
        if res["exit_code"] or res["outcome"] != "migrated":
            raise Failure(f"{' '.join(cmd)}: {res['sentence']}")
        if record:
            with open(path + "l") as f:
                res["record"] = [json.loads(line) for line in f]
            os.unlink(path + "l")
        if self.args.json:
            with open(self.args.json, "a") as f:
                f.write(json.dumps({k: v for k, v in res.items() if k != "record"}) + "\n")
        return res

    def floor(self, **options):
        """Measures the floor alone; returns its JSON object."""
        cmd = [os.path.join(self.args.build, "rdma-migrate"), "floor", "--quiet", "--json", "-"]
        for name, value in options.items():
            cmd += ["--" + name.replace("_", "-"), str(value)]
        res = self._last_line(cmd)
        if self.args.json:
            with open(self.args.json, "a") as f:
                f.write(json.dumps(res) + "\n")
        return res

    def helper(self, name, *args):
        return self._last_line([os.path.join(self.args.build, "bench", name), *[str(a) for a in args]])

    def series(self, variants):
        """--repeat runs of each variant in turn (A B A B): {name: [result]}."""
        results = {name: [] for name in variants}
        for _ in range(self.args.repeat):
            for name, run in variants.items():
                results[name].append(run())
        return results

    def row(self, goal, values, unit, limit, at_most, floor=None, ratios=None, quantile="p50"):
        """values: the measurements; ratios: values / floor of the same run; without ratios the limit is for the value."""
        pick = max if quantile == "max" else statistics.median
        measured = pick(values)
        judged = pick(ratios) if ratios else measured
        met = judged <= limit if at_most else judged >= limit
        off = judged / limit - 1 if at_most else 1 - judged / limit
        verdict = "met" if met else f"MISSED by {100 * off:.0f} %"
        self.missed += not met
        spread = f"{min(values):.4g}..{max(values):.4g}"
        floor_text = f"{statistics.median(floor):.4g}" if floor else "-"
        ratio_text = f"{judged:.3f}" if ratios else "-"
        print(f"{goal:<54} {measured:>9.4g} {unit:<6} {spread:<18} {len(values):>3} {floor_text:>8} {ratio_text:>7}  "
              f"{'<=' if at_most else '>='} {limit:<6g} {verdict}", flush=True)

    def stated(self, name, values, unit, floor, ratios):
        print(f"{name:<54} {statistics.median(values):>9.4g} {unit:<6} {f'{min(values):.4g}..{max(values):.4g}':<18} {len(values):>3} "
              f"{statistics.median(floor):>8.4g} {statistics.median(ratios):>7.3f}  stated", flush=True)

    def say(self, text):
        print(f"  ({text})", flush=True)


def get(results, key):
    return [r[key] for r in results]


def throughput(b):
    """Item 2: idle populated RAM against the bare socket."""
    for kind in ("memfd", "anon"):
        res = b.series({n: lambda n=n: b.run(floor="each", memory=b.args.memory, memory_kind=kind, dirty_rate=0,
                                             mode="stop-and-copy", channels=n) for n in (1, 2, 4)})
        for n, r in res.items():
            b.row(f"throughput, {kind}, {n} channel{'s' if n > 1 else ''}", get(r, "throughput_mb_s"), "MB/s", 0.95, False,
                  floor=[x["floor"]["throughput_mb_s"] for x in r],
                  ratios=[x["throughput_mb_s"] / x["floor"]["throughput_mb_s"] for x in r])
        one = get(res[1], "throughput_mb_s")
        for n in (2, 4):
            many = get(res[n], "throughput_mb_s")
            b.row(f"no loss from {n} channels, {kind} (of one channel's)", many, "MB/s", 1.0, False, floor=one,
                  ratios=[x / statistics.median(one) for x in many])
        cpu = [(x["cpu_ms"]["source_precopy"] + x["cpu_ms"]["target_precopy"]) / 1000 / (x["bytes_sent"] / GIB) for x in res[1]]
        floor = [x["floor"]["cpu_s_per_gib"] for x in res[1]]
        b.row(f"CPU of pre-copy, {kind}, 1 channel", cpu, "s/GiB", 1.1, True, floor=floor,
              ratios=[c / f for c, f in zip(cpu, floor)])


def total_ms(r):
    return r["precopy_ms"] + r["downtime_us"] / 1000 + r["postcopy_ms"]


def sparse(b):
    """Item 3: memory that was never touched costs nothing."""
    common = {"populate": 0, "working_set": "1G", "dirty_rate": 0, "mode": "stop-and-copy", "prealloc": "off"}
    for kind in ("memfd", "anon"):
        res = b.series({m: lambda m=m: b.run(memory=m, memory_kind=kind, **common) for m in ("1040M", "64G")})
        small, large = [total_ms(r) for r in res["1040M"]], [total_ms(r) for r in res["64G"]]
        b.row(f"64 GiB guest with 1 GiB touched, {kind} (of 1 GiB's)", large, "ms", 1.15, True, floor=small,
              ratios=[x / statistics.median(small) for x in large])
        b.row(f"its target's memory, {kind} (of the source's)", [r["resident_bytes"]["target"] / GIB for r in res["64G"]], "GiB",
              1.02, True, floor=[r["resident_bytes"]["source"] / GIB for r in res["64G"]],
              ratios=[r["resident_bytes"]["target"] / r["resident_bytes"]["source"] for r in res["64G"]])


def fresh(b):
    """A target that has allocated nothing, as after every start: beside the socket's warm buffers, and beside QEMU."""
    idle = {"dirty_rate": 0, "mode": "stop-and-copy"}
    for kind in ("anon", "memfd"):
        on = {"memory_kind": kind, **idle}
        res = b.series({
            "small": lambda: b.run(floor="each", memory=b.args.guest, prealloc="off", **on),
            "huge": lambda: b.run(floor="each", memory=b.args.guest, thp="on", prealloc="off", **on),
            "before": lambda: b.run(memory=b.args.guest, prealloc="on", **on),
            "untouched": lambda: b.run(memory=8 * b.args.guest, populate=0, working_set="2M", prealloc="off", **on),
        })
        for pages, limit in (("small", 0.8), ("huge", 0.95)):
            r = res[pages]
            b.row(f"fresh target, {kind}, {pages} pages", get(r, "throughput_mb_s"), "MB/s", limit, False,
                  floor=[x["floor"]["throughput_mb_s"] for x in r],
                  ratios=[x["throughput_mb_s"] / x["floor"]["throughput_mb_s"] for x in r])
        off = get(res["small"], "precopy_ms")
        both = [r["reserve_ms"] + r["precopy_ms"] for r in res["before"]]
        b.row(f"allocating before and pre-copy, {kind} (of as they come)", both, "ms", 1.0, True, floor=off,
              ratios=[x / statistics.median(off) for x in both])
        b.say(f"medians, ms: allocating {statistics.median(get(res['before'], 'reserve_ms')):.0f}, then pre-copy "
              f"{statistics.median(get(res['before'], 'precopy_ms')):.0f}")
        b.row(f"pre-copy of {8 * b.args.guest // GIB} GiB untouched, {kind}", get(res["untouched"], "precopy_ms"), "ms", 100, True)
    for kind in ("anon", "memfd"):
        beside_qemu(b, kind, idle)


def beside_qemu(b, kind, idle):
    """The same guest and kind of memory under QEMU and ferry in turn; the target of both is fresh."""
    compare.qemu_version(b.args.qemu)
    binaries = argparse.Namespace(qemu=b.args.qemu, guest=compare.build_guest(b.folder))
    cfg = {"memory": b.args.guest, "working_set": 0, "rate": 0, "populate": True, "fresh": True, "kind": kind}

    def qemu(variant):
        b.n += 1
        return compare.run_qemu(binaries, cfg, variant, b.folder, b.n)["total_ms"]

    def ferry(channels):
        return total_ms(b.run(thp="auto", memory=b.args.guest, memory_kind=kind, prealloc="off", channels=channels, **idle))

    variants = {("ferry", n): lambda n=n: ferry(n) for n in (1, 2)}
    variants.update({("QEMU", v["name"]): lambda v=v: qemu(v) for v in compare.QEMU if "fresh" in v["for"]})
    res = b.series(variants)

    def best(who):
        found = [v for (name, _), v in res.items() if name == who]
        return [b.args.guest / 1000 / ms for ms in min(found, key=statistics.median)]

    ours, theirs = best("ferry"), best("QEMU")
    b.row(f"fresh target, {kind} (of QEMU's best)", ours, "MB/s", 1.5, False, floor=theirs,
          ratios=[x / statistics.median(theirs) for x in ours])
    b.say("medians, ms: " + ", ".join(f"{who} {name} {statistics.median(v):.0f}" for (who, name), v in res.items()))


def zero(b):
    """Item 3: zero detection against plain reading."""
    res = [b.helper("zero", 1024) for _ in range(b.args.repeat)]
    b.row("zero detection (of the read bandwidth)", get(res, "zero_mb_s"), "MB/s", 0.8, False, floor=get(res, "read_mb_s"),
          ratios=get(res, "ratio"))


def ms(values_us):
    return [v / 1000 for v in values_us]


def items(b, results):
    names = ("pause", "fetch", "residue", "save", "send", "arm", "load", "resume")
    b.say("medians, us: " + ", ".join(f"{n} {statistics.median([r['downtime'][n + '_us'] for r in results]):.0f}" for n in names))


def downtime(b):
    """Item 4."""
    for kind in ("memfd", "anon"):
        res = b.series({"idle": lambda: b.run(memory=b.args.memory, memory_kind=kind, dirty_rate=0, mode="stop-and-copy"),
                        "hybrid": lambda: b.run(memory="2G", memory_kind=kind, working_set="256M", dirty_rate=100000,
                                                mode="post-copy", max_rounds=1)})
        b.row(f"downtime, idle, stop-and-copy, {kind}", ms(get(res["idle"], "downtime_us")), "ms", 1.5, True)
        items(b, res["idle"])
        hybrid = ms(get(res["hybrid"], "downtime_us"))
        b.row(f"downtime, hybrid, {kind}, p50", hybrid, "ms", 2.5, True)
        items(b, res["hybrid"])
        b.row(f"downtime, hybrid, {kind}, worst of the runs", hybrid, "ms", 8, True, quantile="max")


def available():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable"))


def independence(b):
    """Item 4: the downtime does not grow with the RAM or the rate. A tenth of a millisecond does not count."""
    sizes = [s for s in (1, 2, 4, 8) if 2.2 * s * GIB < available()]
    common = {"memory_kind": "memfd", "working_set": "256M", "mode": "post-copy", "max_rounds": 1}
    res = b.series({s: lambda s=s: b.run(memory=f"{s}G", dirty_rate=100000, **common) for s in sizes})
    first = ms(get(res[sizes[0]], "downtime_us"))
    for s in sizes[1:]:
        v = ms(get(res[s], "downtime_us"))
        b.row(f"downtime, hybrid, {s} GiB (of 1 GiB's)", v, "ms", 1.1, True, floor=first,
              ratios=[x / statistics.median(first) for x in v])
    res = b.series({r: lambda r=r: b.run(memory="1G", dirty_rate=r, **common) for r in (20000, 100000, 300000)})
    first = ms(get(res[20000], "downtime_us"))
    for r in (100000, 300000):
        v = ms(get(res[r], "downtime_us"))
        b.row(f"downtime, hybrid, {r} pages/s (of 20000's)", v, "ms", 1.1, True, floor=first,
              ratios=[x / statistics.median(first) for x in v])


def faults(b):
    """Item 5: one vCPU against the bare fault of the same run, and the time to the end of post-copy."""
    for kind in ("memfd", "anon"):
        res = [b.run(floor="each", memory="2G", memory_kind=kind, working_set="256M", dirty_rate=100000, mode="post-copy", max_rounds=1)
               for _ in range(b.args.repeat)]
        res = [r for r in res if r["faults"]]
        if not res:
            raise Failure("no run had a fault")
        for q, limit in (("p50", 1.2), ("p99", 3)):
            b.row(f"fault {q}, {kind}", get(res, f"fault_{q}_us"), "us", limit, True, floor=[r["floor"][f"fault_{q}_us"] for r in res],
                  ratios=[r[f"fault_{q}_us"] / r["floor"][f"fault_{q}_us"] for r in res])
        ideal = [r["pages_residue"] * 4096 / 1000 / r["floor"]["throughput_mb_s"] for r in res]
        b.row(f"post-copy in all, {kind} (of residue / floor)", get(res, "postcopy_ms"), "ms", 1.1, True, floor=ideal,
              ratios=[r["postcopy_ms"] / i for r, i in zip(res, ideal)])
        b.say(f"residue {statistics.median(get(res, 'pages_residue')):.0f} pages, {statistics.median(get(res, 'faults')):.0f} faults")


def pull(b):
    """Item 5: post-copy against a bare pull of as many pages, touched as often, on one and two data channels, in pairs."""
    written = min(256 * MIB, b.args.guest // 8)
    for kind in ("memfd", "anon"):
        for n in (1, 2):
            res, bare = [], []
            for _ in range(b.args.repeat):
                r = b.run(memory=b.args.guest, memory_kind=kind, working_set=written, dirty_rate=100000, mode="post-copy",
                          max_rounds=1, channels=n)
                if not r["faults"]:
                    continue
                rate = int(r["postcopy_stamps"] / r["postcopy_ms"] * 1000)
                f = b.floor(memory=2 * written, memory_kind=kind, working_set=written, dirty_rate=rate, channels=n,
                            pull=min(r["pages_residue"], written // 4096))["pull"]
                if f["faults"]:
                    res.append(r)
                    bare.append(f)
            if not res:
                raise Failure("no run had a fault")
            where = f"{kind}, {n} channel{'s' if n > 1 else ''}"
            for name, key, of, unit, limit in (("post-copy", "postcopy_ms", "total_ms", "ms", 1.2),
                                               ("fault p50", "fault_p50_us", "fault_p50_us", "us", 1.2),
                                               ("fault p99", "fault_p99_us", "fault_p99_us", "us", 2.5)):
                b.row(f"{name}, {where} (of the bare pull)", get(res, key), unit, limit, True, floor=get(bare, of),
                      ratios=[r[key] / f[of] for r, f in zip(res, bare)])
            b.say(f"medians: {statistics.median(get(res, 'pages_residue')):.0f} pages; {statistics.median(get(res, 'faults')):.0f} faults and "
                  f"{statistics.median(get(bare, 'faults')):.0f}; {statistics.median(get(res, 'postcopy_stamps')):.0f} pages written and "
                  f"{statistics.median(get(bare, 'touched')):.0f}")


def dirtiers(b):
    """Item 5: how long each write pattern waits for pages in post-copy. Measured without a goal."""
    common = {"memory": "1G", "memory_kind": "memfd", "working_set": "256M", "mode": "post-copy", "max_rounds": 1}
    links = {"": "tcp:127.0.0.1:0", ", 2 ms away": "tcp:127.0.0.1:0?latency=1ms"}
    rates = {"random": 100000, "zipf": 100000, "sequential": 400000}
    res = b.series({(p, where): lambda p=p, where=where: b.run(pattern=p, dirty_rate=rates[p], uri=links[where], **common)
                    for p in rates for where in links})
    for (p, where), r in res.items():
        post = get(r, "postcopy_ms")
        b.stated(f"vCPU stall, {p}{where} (of post-copy)", get(r, "fault_total_ms"), "ms", post,
                 [x["fault_total_ms"] / x["postcopy_ms"] for x in r])
        b.say(f"medians: {statistics.median(get(r, 'faults')):.0f} faults, residue {statistics.median(get(r, 'pages_residue')):.0f} pages")


def threads(b):
    """Item 5: many faulting threads do not make the total slower."""
    for kind in ("memfd", "anon"):
        res = b.series({n: lambda n=n: b.helper("faults", n, kind) for n in (1, 2, 4, 8, 16)})
        one = get(res[1], "resolved_per_s")
        for n in (2, 4, 8, 16):
            v = get(res[n], "resolved_per_s")
            b.row(f"faults resolved, {n} threads, {kind} (of one's)", v, "/s", 1.0, False, floor=one,
                  ratios=[x / statistics.median(one) for x in v])


def bandwidth(b):
    """Item 9: the limit holds."""
    for asked in (100, 500):
        res = [b.run(memory="256M", memory_kind="memfd", dirty_rate=0, mode="stop-and-copy", bandwidth=f"{asked}M")
               for _ in range(b.args.repeat)]
        limit = asked * 1.048576
        v = get(res, "throughput_mb_s")
        b.row(f"--bandwidth {asked}M, off by", [100 * abs(x / limit - 1) for x in v], "%", 5, True, quantile="max")


def guest_speed(record):
    """Pages per second that the guest writes in the reservation, which does not affect it, and in pre-copy: in the second half of each."""
    entered = {x["phase"]: x["t_us"] for x in record if x["type"] == "event" and x["end"] == "source" and x["event"] == "phase"}
    samples = [(x["t_us"], x["stamps"]) for x in record if x["type"] == "sample" and x["end"] == "source"]

    def speed(a, z):
        at = [s for s in samples if a <= s[0] <= z]
        if len(at) < 2:
            raise Failure(f"the recording has {len(at)} samples in {(z - a) / 1000:.0f} ms")
        return (at[-1][1] - at[0][1]) / (at[-1][0] - at[0][0]) * 1e6

    begin, copied, stopped = entered["reservation"], entered["pre-copy"], entered["stop-and-copy"]
    return speed((begin + copied) / 2, copied), speed((copied + stopped) / 2, stopped)


def logging(b):
    """Item 9: how much pre-copy slows the guest, at a rate and as fast as it can. Measured without a goal."""
    for rate in (100000, 1000000000):
        res = [guest_speed(b.run(record=True, memory="1G", memory_kind="memfd", working_set="256M", dirty_rate=rate,
                                 mode="post-copy", max_rounds=1)["record"]) for _ in range(b.args.repeat)]
        before, during = [r[0] for r in res], [r[1] for r in res]
        name = "unpaced" if rate > 10 ** 8 else f"{rate} pages/s asked"
        b.stated(f"guest in pre-copy, {name} (of before)", ms(during), "/ms", ms(before), [d / f for f, d in res])


def prediction(b):
    """Item 8: the downtime that the policy predicted against the measured one."""
    variants = {
        "idle": {"memory": "1G", "dirty_rate": 0, "mode": "stop-and-copy"},
        "residue of 24 MiB": {"memory": "512M", "working_set": "24M", "dirty_rate": 300000, "mode": "stop-and-copy", "bandwidth": "150M"},
        "long link": {"memory": "256M", "working_set": "64M", "dirty_rate": 10000, "mode": "stop-and-copy",
                      "uri": "tcp:127.0.0.1:0?latency=5ms"},
        "post-copy": {"memory": "1G", "working_set": "256M", "dirty_rate": 100000, "mode": "post-copy", "max_rounds": 1},
    }
    res = b.series({n: lambda o=o: b.run(memory_kind="memfd", **o) for n, o in variants.items()})
    for name, r in res.items():
        off = [abs(x["predicted_us"] - x["downtime_us"]) / max(x["downtime_us"] / 10, 1000) for x in r]
        b.row(f"downtime off its prediction, {name} (of what may be)", [abs(x["predicted_us"] - x["downtime_us"]) / 1000 for x in r], "ms",
              1.0, True, floor=[max(x["downtime_us"] / 10000, 1) for x in r], ratios=off)
        b.say(f"predicted {statistics.median(ms(get(r, 'predicted_us'))):.2f} ms, measured {statistics.median(ms(get(r, 'downtime_us'))):.2f} ms")


@contextlib.contextmanager
def huge_pages(bytes_):
    """Enlarges the host's pool of huge pages of 2 MiB, and restores it at the end."""
    pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/"

    def value(name):
        with open(pool + name) as f:
            return int(f.read())

    def resize(n):
        with open(pool + "nr_hugepages", "w") as f:
            f.write(str(n))

    need = bytes_ >> 21
    try:
        before = value("nr_hugepages")
        resize(before + need)
    except OSError as e:
        raise Failure(f"{need} huge pages of 2 MiB cannot be had: {e}: needs root and a kernel with hugetlb") from e
    try:
        if value("free_hugepages") < need:
            raise Failure(f"{need} huge pages are needed, the kernel gives {value('free_hugepages')}: free memory, or run it after a reboot")
        yield
    finally:
        resize(before)


def huge(b):
    """Item 6: pieces of 4 KiB against pages of 2 MiB, without a goal; RAM on THP is on THP again at the end."""
    common = {"memory": "1G", "working_set": "512M", "dirty_rate": 50000, "mode": "post-copy", "max_rounds": 1}
    with huge_pages(2 * GIB + (64 << 20)):
        res = b.series({k: lambda k=k: b.run(memory_kind=k, **common) for k in ("hugetlb", "hugetlb-memfd")})
    whole, pieces = res["hugetlb"], res["hugetlb-memfd"]
    for name, key, unit in (("pulled", lambda r: (r["bytes_sent"] - sum(x["bytes"] for x in r["round_list"])) / 1e6, "MB"),
                            ("fault p50", lambda r: r["fault_p50_us"], "us"), ("fault p99", lambda r: r["fault_p99_us"], "us"),
                            ("post-copy", lambda r: r["postcopy_ms"], "ms")):
        new, old = [key(r) for r in pieces], [key(r) for r in whole]
        b.stated(f"{name}, hugetlb-memfd (of 2 MiB a fault)", new, unit, old, [x / statistics.median(old) for x in new])
    for kind in ("anon", "memfd"):
        res = [b.run(memory_kind=kind, thp="on", **common) for _ in range(b.args.repeat)]
        at = {end: [r["thp_bytes"][end] / GIB for r in res] for end in ("source", "arrived", "target")}
        b.row(f"on huge pages again in the end, {kind} (of the source's)", at["target"], "GiB", 1.0, False, floor=at["source"],
              ratios=[t / s if s else 0 for t, s in zip(at["target"], at["source"])])
        b.say(f"medians: {statistics.median(at['arrived']):.3f} GiB with the last page, "
              f"{statistics.median(get(res, 'collapse_ms')):.0f} ms to collapse the rest")


# Runs in the soft-RoCE machine. perftest runs before each run; its figure is a separate line between the runs' objects.
RDMA_RUNS = """
lines=$(mktemp)
for ((i = 0; i < {repeat}; i++)); do
	ib_write_bw -F -s 1048576 -n 100 -x 1 >/dev/null 2>&1 & server=$!
	until ss -Hltn 'sport = :18515' | grep -q .; do kill -0 $server || exit 1; done
	ib_write_bw -F -s 1048576 -n 100 -x 1 --output=bandwidth 10.9.0.1 | sed 's/.*/{{"ib_write_bw_mib_s": &}}/' || exit 1
	wait $server || exit 1
	'{build}/rdma-migrate' run --quiet --uri rdma:10.9.0.1:0 --memory 64M --working-set 16M --dirty-rate 3000 --floor each \
		--mode post-copy --max-rounds 1 --memory-kind {kind} --thp off --json $lines >/dev/null || exit 1
	tail -n 1 $lines
done
"""


def rdma(b):
    """RDMA in the soft-RoCE machine: a guest of 64 MiB against the bare device of the same run."""
    machine = os.path.join(HERE, "..", "tests", "rdma", "run")
    for kind in ("memfd", "anon"):
        script = RDMA_RUNS.format(repeat=b.args.repeat, build=b.args.build, kind=kind)
        out = subprocess.run([machine, "--build", b.args.build, "--exec", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True)
        if out.returncode:
            raise Failure(f"the machine ended with {out.returncode}: {out.stdout.strip()[-400:]}")
        lines = [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]
        res, perftest = lines[1::2], [line["ib_write_bw_mib_s"] * 1.048576 for line in lines[::2]]
        floor = [r["floor"]["throughput_mb_s"] for r in res]
        b.row(f"rdma: pre-copy, {kind} (of WRITE)", get(res, "throughput_mb_s"), "MB/s", 0.9, False, floor=floor,
              ratios=[r["throughput_mb_s"] / f for r, f in zip(res, floor)])
        b.say(f"ib_write_bw of 1 MiB beside it: {statistics.median(perftest):.0f} MB/s")
        res = [r for r in res if r["faults"]]
        if not res:
            raise Failure("no run had a fault")
        b.row(f"rdma: fault p50, {kind} (of a READ's)", get(res, "fault_p50_us"), "us", 1.3, True,
              floor=[r["floor"]["fault_p50_us"] for r in res],
              ratios=[r["fault_p50_us"] / r["floor"]["fault_p50_us"] for r in res])
        cpu = [r["cpu_ms"] for r in res]
        b.row(f"rdma: source's CPU in post-copy, {kind} (of target's)", [c["source_postcopy"] for c in cpu], "ms", 0.02, True,
              floor=[c["target_postcopy"] for c in cpu], ratios=[c["source_postcopy"] / c["target_postcopy"] for c in cpu])
        b.say(f"medians: {statistics.median(get(res, 'faults')):.0f} faults, residue {statistics.median(get(res, 'pages_residue')):.0f} "
              f"pages, post-copy {statistics.median(get(res, 'postcopy_ms')):.0f} ms")


GROUPS = {f.__name__: f for f in (throughput, fresh, sparse, zero, downtime, independence, faults, pull, dirtiers, threads, huge, bandwidth, logging, prediction, rdma)}


def main():
    p = argparse.ArgumentParser(prog="bench/goals", description=__doc__,
                                epilog="Groups: " + "; ".join(f"{n}: {f.__doc__.splitlines()[0]}" for n, f in GROUPS.items()))
    p.add_argument("--build", required=True, help=argparse.SUPPRESS)
    p.add_argument("--only", type=lambda t: t.split(","), default=list(GROUPS), help="groups, separated by commas")
    p.add_argument("--repeat", type=int, default=10, help="runs of each (default: %(default)s)")
    p.add_argument("--memory", default="4G", help="RAM of the idle guests (default: %(default)s)")
    p.add_argument("--guest", type=compare.size, default=compare.size("2G"),
                   help="RAM of the guests of fresh and pull (default: 2G; fresh also has a guest of eight times as much)")
    p.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU beside which fresh measures (default: %(default)s)")
    p.add_argument("--json", help="append the JSON objects of all runs to this file")
    args = p.parse_args()
    unknown = set(args.only) - set(GROUPS)
    if unknown or args.repeat < 1:
        p.error(f"--only takes {', '.join(GROUPS)}" if unknown else "--repeat takes a number from 1")
    print(f"{'goal':<54} {'measured':>9} {'':<6} {'spread':<18} {'n':>3} {'floor':>8} {'ratio':>7}  {'goal':<9} ")
    with tempfile.TemporaryDirectory(prefix="goals-") as folder:
        b = Bench(args, folder)
        for name in args.only:
            try:
                GROUPS[name](b)
            except Failure as e:
                b.missed += 1
                print(f"{name:<54} NOT MEASURED: {e}", flush=True)
    print(f"{b.missed} missed" if b.missed else "all met")


if __name__ == "__main__":
    main()
