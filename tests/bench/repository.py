#!/usr/bin/env python3
"""What it costs to look at a repository as a whole.

    tests/bench/repository.py status WALKEEP [--segments 100000] [--backups 200]
    tests/bench/repository.py prune  WALKEEP [--segments 100000] [--backups 200]
    tests/bench/repository.py verify WALKEEP_DIR [--scale 40] [--rounds 5]

`status` and `prune` make up a directory repository and measure `status` and the plan of a prune: `prune --dry-run`.
`verify` takes two backups of a pgbench cluster with as many megabytes of random text and measures
`walkeep verify` in turns with `zstd -tq` of the same packs and WAL, as many at once as there are CPUs, everything
in the page cache. WALKEEP_DIR has walkeep and walpush. Scratch files go to $TMPDIR; run it on an idle machine.
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


def verify(args):
    place = tempfile.mkdtemp()
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(place, "postgres")
    pg = next(f"/usr/lib/postgresql/{major}/bin" for major in (18, 17, 16, 15) if os.path.exists(f"/usr/lib/postgresql/{major}/bin/initdb"))
    walkeep, walpush = (f"{args.walkeep}/{name}" for name in ("walkeep", "walpush"))

    def go(*command):
        subprocess.run([*user, *command], check=True, cwd=place, stdout=subprocess.DEVNULL)

    def sql(text):
        go(f"{pg}/psql", "-qX", "-h", place, "-U", "postgres", "-c", text)

    data = f"{place}/data"
    go(f"{pg}/initdb", "-D", data, "-U", "postgres", "-k", "-A", "trust")
    config = configure(place, data, f"host={place} user=postgres dbname=postgres")
    go("mkdir", f"{place}/repository", f"{place}/spool")
    go(walkeep, "--config", config, "init")
    settings = f"-k {place} -c listen_addresses='' -c archive_mode=on -c max_wal_size=4GB -c archive_command='{walpush} --config {config} %p'"
    go(f"{pg}/pg_ctl", "-D", data, "-w", "-l", f"{place}/log", "-o", settings, "start")
    try:
        go(f"{pg}/pgbench", "-i", "-q", "-s", str(args.scale), "-h", place, "-U", "postgres", "postgres")
        sql(f"create table noise as select i, md5(i::text || 'a') || md5(i::text || 'b') as text from generate_series(1, {args.scale * 150000}) i")
        go(walkeep, "--config", config, "backup", "--quiet")
        sql(f"update noise set text = md5(text) where i % 100 = 1")
        go(walkeep, "--config", config, "backup", "--quiet")
        sql("select pg_switch_wal()")
    finally:
        go(f"{pg}/pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
    objects = [f"{folder}/{name}" for folder, _, names in os.walk(f"{place}/repository") for name in names
               if "/pack" in folder or "/wal/" in folder]
    compare(args, place, config, "everything", objects, [])
    compare(args, place, config, "WAL alone", [path for path in objects if "/wal/" in path], ["--wal"])
    shutil.rmtree(place)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["status", "prune", "verify"])
    parser.add_argument("walkeep")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--backups", type=int, default=200)
    parser.add_argument("--scale", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    {"status": status, "prune": prune, "verify": verify}[args.what](args)


main()
