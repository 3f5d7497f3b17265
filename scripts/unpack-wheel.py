"""Unpacks libtorch out of a torch wheel: lib/, include/ and share/cmake of its torch/ folder.

usage: python3 unpack-wheel.py WHEEL FOLDER

Every file is checked against the checksum of the zip archive and against the SHA-256 that the wheel's RECORD gives for it.
Prints `progress DONE TOTAL` lines in bytes and ends with `version VERSION`. Needs nothing but Python 3.6 or newer.
"""

import base64
import csv
import hashlib
import io
import os
import sys
import zipfile

KEPT = ("torch/lib/", "torch/include/", "torch/share/cmake/")
CHUNK = 4 << 20
STEP = 16 << 20  # bytes between two progress lines


def fail(message):
    sys.exit("error: " + message)


def read_records(archive):
    """RECORD as {name: (algorithm, digest, size)} and the version in the name of its folder."""
    records = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD") and name.count("/") == 1]
    if len(records) != 1:
        fail("it is not a wheel: %d RECORD files" % len(records))
    version = records[0].split("/")[0][: -len(".dist-info")].split("-", 1)[1]
    rows = csv.reader(io.StringIO(archive.read(records[0]).decode("utf-8")))
    return {row[0]: (row[1].partition("=")[0], row[1].partition("=")[2], row[2]) for row in rows if len(row) == 3}, version


def main(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        records, version = read_records(archive)
        entries = [entry for entry in archive.infolist() if entry.filename.startswith(KEPT) and not entry.is_dir()]
        if not any(entry.filename == "torch/lib/libtorch_cpu.so" for entry in entries):
            fail("it holds no torch/lib/libtorch_cpu.so: it is not a torch for Linux")
        total = sum(entry.file_size for entry in entries)
        done = reported = 0
        for entry in entries:
            name = entry.filename
            if ".." in name.split("/") or "\\" in name:
                fail("unsafe name in the archive: " + name)
            algorithm, digest, size = records.get(name, ("", "", ""))
            if algorithm not in hashlib.algorithms_guaranteed:
                fail("RECORD has no checksum for " + name)
            checksum = hashlib.new(algorithm)
            target = os.path.join(folder, *name.split("/")[1:])
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with archive.open(entry) as source, open(target, "wb") as sink:
                while True:
                    chunk = source.read(CHUNK)
                    if not chunk:
                        break
                    checksum.update(chunk)
                    sink.write(chunk)
                    done += len(chunk)
                    if done - reported >= STEP:
                        reported = done
                        print("progress %d %d" % (done, total), flush=True)
            if base64.urlsafe_b64encode(checksum.digest()).rstrip(b"=").decode() != digest:
                fail("%s does not have the checksum that RECORD gives" % name)
        print("progress %d %d" % (total, total))
        print("version " + version)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        fail("usage: unpack-wheel.py WHEEL FOLDER")
    try:
        main(sys.argv[1], sys.argv[2])
    except (OSError, zipfile.BadZipFile, EOFError) as problem:
        fail(str(problem))
