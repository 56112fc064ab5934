#!/usr/bin/env python3
"""What it costs to look at a repository as a whole.

    tests/bench/repository.py status WALKEEP [--segments 100000] [--backups 200]
    tests/bench/repository.py prune  WALKEEP [--segments 100000] [--backups 200]
    tests/bench/repository.py verify WALKEEP_DIR [--scale 40] [--rounds 5]
    tests/bench/repository.py drill  WALKEEP_DIR [--scale 230] [--rounds 3]

`status` and `prune` make up a directory repository and measure `status` and the plan of a prune: `prune --dry-run`.
`verify` takes two backups of a pgbench cluster with as many megabytes of random text and measures
`walkeep verify` in turns with `zstd -tq` of the same packs and WAL, as many at once as there are CPUs, everything
in the page cache. `drill` takes a backup of a pgbench cluster and WAL behind it, and measures in turns what a user would
do by hand - restore, recovery, `pg_dumpall > /dev/null` - and `walkeep drill`, everything in the page cache.
WALKEEP_DIR has walkeep, walpush and walfetch. Scratch files go to $TMPDIR; run it on an idle machine.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

SYSTEM, MAJOR, CLUSTER = 7300000000000000001, 17, "main"


def envelope(kind, name, content):
    """An object as FORMAT.md describes it, its content in one zstd frame of raw blocks."""
    header = {"walkeep": 1, "kind": kind, "name": name, "system_identifier": str(SYSTEM), "pg": MAJOR,
              "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    head = b"\x57\x2a\x4d\x18\xf8\x01\0\0" + json.dumps(header).encode()
    frame = b"\x28\xb5\x2f\xfd\xe0" + len(content).to_bytes(8, "little")
    pieces = [content[at:at + (128 << 10)] for at in range(0, len(content), 128 << 10)] or [b""]
    for number, piece in enumerate(pieces):
        frame += (len(piece) << 3 | (number + 1 == len(pieces))).to_bytes(3, "little") + piece
    return head.ljust(511) + b"\n" + frame


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def measured(command, status=0):
    """Seconds, MiB at most, and what it printed."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out)
        _, ended, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begun
        if os.waitstatus_to_exitcode(ended) != status:
            sys.exit(f"{command} ended with {os.waitstatus_to_exitcode(ended)}")
        out.seek(0)
        return seconds, usage.ru_maxrss / 1024, out.read()


def configure(place, pgdata, connection=""):
    config = f"{place}/walkeep.toml"
    text = f'[cluster.{CLUSTER}]\npgdata = "{pgdata}"\nconnection = "{connection}"\n'
    text += f'[[repository]]\nname = "local"\nurl = "file://{place}/repository"\n'
    text += f'[repository.retention]\nkeep_last = 100\nkeep_daily = 30\n[wal]\nspool = "{place}/spool"\n'
    write(config, text.encode())
    return config


def segment(number):
    return f"00000001{number // 256:08X}{number % 256:08X}"


def record(index, per_backup, ids, packs):
    first = index * per_backup + 1
    when = f"2026-{1 + index // 28 % 12:02}-{1 + index % 28:02}T03:00:00Z"
    return {
        "id": ids[index], "state": "complete", "start_time": when, "stop_time": when,
        "start_lsn": f"{first // 256:X}/{first % 256 << 24 | 0x28:X}", "stop_lsn": f"{first // 256:X}/{first % 256 << 24 | 0x128:X}",
        "timeline": 1, "system_identifier": str(SYSTEM), "pg_version": "17.0", "size": 1 << 30, "stored": 1 << 28,
        "new_bytes": 1 << 26, "files": 1000, "parent": ids[index - 1] if index else None,
        "manifest": [{"key": f"data/{ids[index]}/manifest/000001", "size": 600, "sha256": "0" * 64}],
        "packs": packs, "segment_size": 16 << 20,
        "wal": {"first": segment(first), "last": segment(first)},
        "settings": {"time_zone": "UTC", "block_size": 8192, "data_checksums": True, "data_directory": "/",
                     "config_file": "/", "from_standby": False},
    }


def made_up(args, place):
    """A repository of names and sizes; its configuration."""
    config = configure(place, f"{place}/gone")
    lineage = f"{SYSTEM}-{MAJOR}"
    base = f"{place}/repository/{CLUSTER}"
    identity = {"repository_id": "0" * 32, "cluster": CLUSTER, "system_identifier": str(SYSTEM), "pg": MAJOR,
                "created": "2026-01-01T00:00:00Z", "lineage": []}
    write(f"{base}/identity/{lineage}", envelope("identity", lineage, json.dumps(identity).encode()))
    ids = [f"2026{1 + index // 28 % 12:02}{1 + index % 28:02}T030000Z-{index:06x}" for index in range(args.backups)]
    per_backup = args.segments // args.backups
    for index, name in enumerate(ids):
        # Each names packs of the ten before it too.
        packs = {ids[other]: [[1, 16]] for other in range(max(0, index - 10), index + 1)}
        text = json.dumps(record(index, per_backup, ids, packs)).encode()
        write(f"{base}/{lineage}/backup/{name}", envelope("backup", name, text))
        write(f"{base}/{lineage}/data/{name}/manifest/000001", b"x" * 600)
        for number in range(1, 17):
            write(f"{base}/{lineage}/data/{name}/pack/{number:06}", b"x")
    for number in range(1, args.segments + 1):
        name = segment(number)
        write(f"{base}/{lineage}/wal/{name[:8]}/{name[8:16]}/{name}", b"x")
    return config


def prune(args):
    with tempfile.TemporaryDirectory() as place:
        command = [args.walkeep, "--config", made_up(args, place), "prune", "--dry-run", "--json"]
        rounds = [measured(command) for _ in range(args.rounds)]
        plan = json.loads(rounds[0][2])
        print(f"prune, {args.segments} segments, {args.backups} backups:"
              f" {statistics.median(r[0] for r in rounds):.2f} s, {max(r[1] for r in rounds):.0f} MiB;"
              f" would remove {len(plan['remove']['backups'])} backups and {plan['remove']['objects']} objects")


def status(args):
    with tempfile.TemporaryDirectory() as place:
        command = [args.walkeep, "--config", made_up(args, place), "status", "--json"]
        # There is no server, which is red.
        rounds = [measured(command, 3) for _ in range(args.rounds)]
        stored = json.loads(rounds[0][2])["clusters"][0]["repositories"][0]["stored"]
        if stored["wal"] != args.segments:
            sys.exit(f"it saw {stored['wal']} segments")
        print(f"status, {args.segments} segments, {args.backups} backups:"
              f" {statistics.median(r[0] for r in rounds) * 1000:.0f} ms, {max(r[1] for r in rounds):.0f} MiB")


def compare(args, place, config, what, objects, options):
    """`walkeep verify` and `zstd -tq` of the same objects, in turns."""
    size = sum(os.path.getsize(path) for path in objects)
    listed = f"{place}/objects"
    write(listed, "\n".join(objects).encode())
    jobs = os.cpu_count()
    zstd = ["xargs", "-a", listed, "-P", str(jobs), "-n", "4", "zstd", "-tq"]
    ours = [f"{args.walkeep}/walkeep", "--config", config, "verify", "--json", "--jobs", str(jobs), *options]
    measured(zstd)
    rounds = []
    for _ in range(args.rounds):
        (theirs, _, _), (own, memory, report) = measured(zstd), measured(ours)
        rounds.append((theirs, own, memory))
        read = json.loads(report)["checked"]["bytes"]
    speed = lambda bytes, column: bytes / statistics.median(r[column] for r in rounds) / 1e6
    print(f"verify, {what}: {len(objects)} objects of {size / 1e6:.0f} MB, {jobs} at once: {speed(read, 1):.0f} MB/s,"
          f" zstd -t {speed(size, 0):.0f} MB/s: {speed(read, 1) / speed(size, 0):.2f} x; {max(r[2] for r in rounds):.0f} MiB;"
          f" seconds {[f'{own:.2f}/{theirs:.2f}' for theirs, own, _ in rounds]}")


class Served:
    """A PostgreSQL cluster that archives into a repository, in a directory of its own; the server ends with `with`."""

    def __init__(self, args):
        self.place = tempfile.mkdtemp()
        self.user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.user:
            shutil.chown(self.place, "postgres")
        self.pg = next(f"/usr/lib/postgresql/{major}/bin" for major in (18, 17, 16, 15)
                       if os.path.exists(f"/usr/lib/postgresql/{major}/bin/initdb"))
        self.data = f"{self.place}/data"
        self.walkeep = f"{args.walkeep}/walkeep"
        self.go(f"{self.pg}/initdb", "-D", self.data, "-U", "postgres", "-k", "-A", "trust")
        self.config = configure(self.place, self.data, f"host={self.place} user=postgres dbname=postgres")
        self.go("mkdir", f"{self.place}/repository", f"{self.place}/spool")
        self.ours("init")
        self.settings = f"-k {self.place} -c listen_addresses='' -c max_wal_size=4GB -c shared_buffers=512MB"
        archive = f" -c archive_mode=on -c archive_command='{args.walkeep}/walpush --config {self.config} %p'"
        self.start(self.data, self.settings + archive)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(self.data)

    def go(self, *command):
        subprocess.run([*self.user, *command], check=True, cwd=self.place, stdout=subprocess.DEVNULL)

    def ours(self, *arguments):
        self.go(self.walkeep, "--config", self.config, *arguments)

    def sql(self, text):
        command = [*self.user, f"{self.pg}/psql", "-qXAt", "-h", self.place, "-U", "postgres", "-c", text]
        return subprocess.run(command, check=True, cwd=self.place, stdout=subprocess.PIPE).stdout.decode().strip()

    def start(self, data, settings):
        self.go(f"{self.pg}/pg_ctl", "-D", data, "-w", "-t", "600", "-l", f"{self.place}/log", "-o", settings, "start")

    def stop(self, data):
        self.go(f"{self.pg}/pg_ctl", "-D", data, "-m", "fast", "-w", "-t", "600", "stop")

    def bench(self, *arguments):
        self.go(f"{self.pg}/pgbench", "-h", self.place, "-U", "postgres", *arguments, "postgres")

    def flush(self):
        """Ends a segment, and waits until it is archived."""
        last = self.sql("select pg_walfile_name(pg_switch_wal())")
        while self.sql(f"select coalesce(last_archived_wal >= '{last}', false) from pg_stat_archiver") != "t":
            time.sleep(0.1)


def verify(args):
    with Served(args) as served:
        served.bench("-i", "-q", "-s", str(args.scale))
        served.sql(f"create table noise as select i, md5(i::text || 'a') || md5(i::text || 'b') as text from generate_series(1, {args.scale * 150000}) i")
        served.ours("backup", "--quiet")
        served.sql("update noise set text = md5(text) where i % 100 = 1")
        served.ours("backup", "--quiet")
        served.sql("select pg_switch_wal()")
    place = served.place
    objects = [f"{folder}/{name}" for folder, _, names in os.walk(f"{place}/repository") for name in names
               if "/pack" in folder or "/wal/" in folder]
    compare(args, place, served.config, "everything", objects, [])
    compare(args, place, served.config, "WAL alone", [path for path in objects if "/wal/" in path], ["--wal"])
    shutil.rmtree(place)


def drill(args):
    with Served(args) as served:
        served.bench("-i", "-q", "-s", str(args.scale))
        served.ours("backup", "--quiet")
        served.bench("-n", "-N", "-c", "4", "-j", "2", "-t", str(args.scale * 100))
        served.flush()
    place, restored = served.place, f"{served.place}/restored"

    def timed(what, *arguments):
        begun = time.monotonic()
        what(*arguments)
        return time.monotonic() - begun

    def recover():
        served.start(restored, served.settings)
        while served.sql("select pg_is_in_recovery()") != "f":
            time.sleep(0.05)

    rows = []
    for _ in range(args.rounds):
        row = {"restore": timed(served.ours, "restore", "--to", restored, "--quiet"), "recovery": timed(recover)}
        row["pg_dumpall"] = timed(served.go, f"{served.pg}/pg_dumpall", "-h", place, "-U", "postgres")
        row["cat"] = timed(served.go, "find", f"{restored}/base", "-type", "f", "-exec", "cat", "{}", "+")
        size = int(served.sql("select sum(pg_database_size(oid)) from pg_database"))
        served.stop(restored)
        served.go("rm", "-r", restored)
        served.go("mkdir", "-p", f"{place}/drills")
        begun = time.monotonic()
        command = [*served.user, served.walkeep, "--config", served.config, "drill", "--json", "--directory", f"{place}/drills"]
        said = json.loads(subprocess.run(command, check=True, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
        row["drill"] = time.monotonic() - begun
        row |= {f"drill: {part}": said[f"{part}_seconds"] for part in ("restore", "recovery", "check")}
        rows.append(row)
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    steps = middle["restore"] + middle["recovery"]
    print(f"drill of {size / 1e9:.1f} GB, seconds: " + ", ".join(f"{name} {took:.1f}" for name, took in middle.items()))
    print(f"drill / (restore + recovery + pg_dumpall > /dev/null): {middle['drill'] / (steps + middle['pg_dumpall']):.2f} x;"
          f" with cat of the files instead: {middle['drill'] / (steps + middle['cat']):.2f} x")
    shutil.rmtree(place)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["status", "prune", "verify", "drill"])
    parser.add_argument("walkeep")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--backups", type=int, default=200)
    parser.add_argument("--scale", type=int)
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    args.walkeep = os.path.abspath(args.walkeep)
    args.scale = args.scale or (230 if args.what == "drill" else 40)
    args.rounds = args.rounds or (3 if args.what == "drill" else 5)
    {"status": status, "prune": prune, "verify": verify, "drill": drill}[args.what](args)


main()
