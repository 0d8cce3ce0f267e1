"""Records the trace anew."""

from benchmarks.traces import FILE, record, write

write(record())
print(FILE)
