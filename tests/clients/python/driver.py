"""confluent-kafka, driven by lines on standard input; ../main.rs says what each command means."""

import struct
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

BOOTSTRAP = sys.argv[1]
ADMIN = AdminClient({"bootstrap.servers": BOOTSTRAP})


def transact(ident, topics, values, how):
    """Sends each value to partition 0 of each topic, in one transaction."""
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": ident})
    producer.init_transactions(30)
    producer.begin_transaction()
    for topic in topics.split(","):
        for value in values.split(","):
            producer.produce(topic, value.encode(), partition=0)
    if how == "commit":
        producer.commit_transaction(30)
    else:
        producer.flush(30)
        producer.abort_transaction(30)
    return ""


def committed(topic, count):
    """The first values of partition 0 that a reader of committed records sees."""
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": "unused",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    deadline = time.monotonic() + 60
    while len(values) < int(count):
        if time.monotonic() > deadline:
            raise RuntimeError(f"after 60 s only {values}")
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            values.append(message.value().decode())
    consumer.close()
    return ",".join(values)


def read_records(path):
    data = open(path, "rb").read()
    at = 0

    def integer():
        nonlocal at
        at += 4
        return struct.unpack_from(">i", data, at - 4)[0]

    def octets():
        nonlocal at
        length = integer()
        if length < 0:
            return None
        at += length
        return data[at - length : at]

    while at < len(data):
        partition, offset, timestamp = struct.unpack_from(">iqq", data, at)
        at += 20
        key, value = octets(), octets()
        headers = [(octets().decode(), octets()) for _ in range(integer())]
        yield partition, offset, timestamp, key, value, headers


def write_octets(out, octets):
    out.write(struct.pack(">i", -1 if octets is None else len(octets)))
    if octets is not None:
        out.write(octets)


def write_record(out, message):
    out.write(struct.pack(">iqq", message.partition(), message.offset(), message.timestamp()[1]))
    write_octets(out, message.key())
    write_octets(out, message.value())
    headers = message.headers() or []
    out.write(struct.pack(">i", len(headers)))
    for name, value in headers:
        write_octets(out, name.encode())
        write_octets(out, value)


def produce(topic, path, codec, acks, idempotent):
    producer = Producer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "compression.type": codec,
            "acks": acks,
            "enable.idempotence": idempotent == "1",
            "message.max.bytes": 1100000,
            "linger.ms": 5,
            "retries": 10 if idempotent == "1" else 0,
        }
    )
    records = list(read_records(path))
    offsets = [-1] * len(records)
    problems = []

    def delivered(index):
        def note(error, message):
            if error is not None:
                problems.append(str(error))
            elif message.offset() is not None and message.offset() >= 0:
                offsets[index] = message.offset()

        return note

    for index, (partition, _, timestamp, key, value, headers) in enumerate(records):
        more = {} if timestamp < 0 else {"timestamp": timestamp}
        while True:
            try:
                producer.produce(
                    topic,
                    value=value,
                    key=key,
                    partition=partition,
                    headers=headers,
                    on_delivery=delivered(index),
                    **more,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(30)
    if left or problems:
        raise RuntimeError(f"{left} not delivered, {problems[:3]}")
    if acks == "0":
        offsets = [-1] * len(records)
    with open(path + ".offsets", "wb") as out:
        out.write(struct.pack(f">{len(offsets)}q", *offsets))
    return len(records)


def new_consumer():
    return Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": "none",  # required by the constructor; nothing is committed or joined
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "check.crcs": True,
        }
    )


def consume(topic, path, ranges):
    ends, starts = {}, []
    for part in ranges.split(","):
        partition, start, end = (int(x) for x in part.split(":"))
        ends[partition] = end
        starts.append(TopicPartition(topic, partition, start))
    left = {p.partition: ends[p.partition] - p.offset for p in starts}
    consumer = new_consumer()
    consumer.assign(starts)
    deadline = time.monotonic() + 60
    count = 0
    with open(path, "wb") as out:
        while any(n > 0 for n in left.values()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"after 60 s still to come: {left}")
            for message in consumer.consume(500, 0.2):
                if message.error():
                    raise RuntimeError(str(message.error()))
                partition = message.partition()
                if message.offset() < ends[partition]:
                    write_record(out, message)
                    count += 1
                    left[partition] = ends[partition] - message.offset() - 1
    consumer.close()
    return count


def group(topic, path, group_id, protocol, least):
    """Joins the group, reads until there are `least` records or more, commits what it read, and leaves."""
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": group_id,
            "group.protocol": protocol,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    deadline = time.monotonic() + 60
    positions = {}
    count = 0
    with open(path, "wb") as out:
        while count < int(least):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{count} of {least} after 60 s")
            for message in consumer.consume(100, 0.2):
                if message.error():
                    raise RuntimeError(str(message.error()))
                write_record(out, message)
                count += 1
                positions[message.partition()] = message.offset() + 1
    offsets = [TopicPartition(topic, partition, offset) for partition, offset in positions.items()]
    for committed in consumer.commit(offsets=offsets, asynchronous=False):
        if committed.error:
            raise RuntimeError(str(committed.error))
    consumer.close()
    return count


def offset(topic, partition, which):
    where = TopicPartition(topic, int(partition))
    spec = {
        "earliest": OffsetSpec.earliest,
        "latest": OffsetSpec.latest,
        "max": OffsetSpec.max_timestamp,
    }.get(which, lambda: OffsetSpec.for_timestamp(int(which)))()
    listed = ADMIN.list_offsets({where: spec})[where].result(30).offset
    consumer = new_consumer()
    if which in ("earliest", "latest"):
        low, high = consumer.get_watermark_offsets(where, timeout=30)
        found = low if which == "earliest" else high
        assert found == listed, f"list_offsets says {listed}, get_watermark_offsets {found}"
    elif which != "max":
        found = consumer.offsets_for_times([TopicPartition(topic, int(partition), int(which))], timeout=30)[0]
        # The consumer says "the end" (-1) where the broker found nothing.
        assert found.error is None and found.offset == listed, f"list_offsets says {listed}, offsets_for_times {found}"
    consumer.close()
    return listed


def done(futures):
    return [future.result(30) for future in futures.values()]


def run(name, *arguments):
    if name == "produce":
        return produce(*arguments)
    if name == "consume":
        return consume(*arguments)
    if name == "transact":
        return transact(*arguments)
    if name == "committed":
        return committed(*arguments)
    if name == "offset":
        return offset(*arguments)
    if name == "group":
        return group(*arguments)
    topic = arguments[0] if arguments else ""
    if name == "create":
        configs = dict(pair.split("=", 1) for pair in arguments[2].split(",") if pair)
        done(ADMIN.create_topics([NewTopic(topic, int(arguments[1]), 1, config=configs)]))
        return ""
    if name == "delete":
        done(ADMIN.delete_topics([topic], operation_timeout=30))
        return ""
    if name == "grow":
        done(ADMIN.create_partitions([NewPartitions(topic, int(arguments[1]))]))
        return ""
    if name == "describe":
        listed = ADMIN.list_topics(topic, timeout=30).topics[topic]
        if listed.error is not None:
            raise RuntimeError(str(listed.error))
        return len(listed.partitions)
    if name == "get-config":
        (configs,) = done(ADMIN.describe_configs([ConfigResource("topic", topic)]))
        return configs[arguments[1]].value
    if name == "set-config":
        entry = ConfigEntry(arguments[1], arguments[2], incremental_operation=AlterConfigOpType.SET)
        done(ADMIN.incremental_alter_configs([ConfigResource("topic", topic, incremental_configs=[entry])]))
        return ""
    if name == "delete-records":
        where = TopicPartition(topic, int(arguments[1]), int(arguments[2]))
        (deleted,) = done(ADMIN.delete_records([where]))
        return deleted.low_watermark
    if name == "cluster":
        cluster = ADMIN.describe_cluster().result(30)
        return f"{cluster.cluster_id}\t{len(cluster.nodes)}\t{cluster.controller.id}"
    raise RuntimeError(f"no such command: {name}")


for line in sys.stdin:
    try:
        answer = f"ok\t{run(*line.rstrip(chr(10)).split(chr(9)))}"
    except Exception as problem:  # every problem is an answer, and the next command follows
        text = f"{type(problem).__name__}: {problem}"
        answer = "error\t" + text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    print(answer, flush=True)
