import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.BufferedReader;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.Exit;

/**
 * The Java client and Kafka's command-line tools, driven by lines on standard input: one process, so
 * that a Java machine starts once for all of it. ../main.rs says what each command means.
 */
public final class Driver {
    private static final PrintStream ANSWERS = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
    private static final ByteArrayOutputStream PRINTED = new ByteArrayOutputStream();
    private static String bootstrap;
    private static Admin admin;

    private static Integer exitStatus;

    private static final class Exited extends RuntimeException {
        private static final long serialVersionUID = 1;
    }

    private record Entry(int partition, long offset, long timestamp, byte[] key, byte[] value, List<Header> headers) { }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        // Tools print and exit; here their output is collected and their exit is an exception.
        PrintStream collected = new PrintStream(new OutputStream() {
            @Override
            public void write(int b) {
                synchronized (PRINTED) {
                    PRINTED.write(b);
                }
            }
        }, true);
        System.setOut(collected);
        Exit.setExitProcedure((status, message) -> exited(status));
        Exit.setHaltProcedure((status, message) -> exited(status));
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String answer;
            try {
                answer = "ok\t" + run(line.split("\t", -1));
            } catch (Throwable problem) {
                Throwable cause = problem.getCause() == null ? problem : problem.getCause();
                answer = "error\t" + escape(cause.getClass().getSimpleName() + ": " + cause.getMessage());
            }
            ANSWERS.println(answer);
        }
        Runtime.getRuntime().halt(0);
    }

    /** The first status counts: a tool may catch what is thrown here, and exit again. */
    private static void exited(int status) {
        if (exitStatus == null) {
            exitStatus = status;
        }
        throw new Exited();
    }

    private static String escape(String text) {
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r");
    }

    private static String run(String[] command) throws Exception {
        switch (command[0]) {
            case "produce":
                return produce(command[1], command[2], command[3], command[4], command[5].equals("1"));
            case "transact":
                return transact(command[1], command[2], command[3], command[4].equals("commit"));
            case "committed":
                return committed(command[1], Integer.parseInt(command[2]));
            case "consume":
                return consume(command[1], command[2], command[3]);
            case "group":
                return group(command[1], command[2], command[3], command[4], Integer.parseInt(command[5]));
            case "offset":
                return offset(new TopicPartition(command[1], Integer.parseInt(command[2])), command[3]);
            case "create": {
                Map<String, String> configs = new HashMap<>();
                for (String pair : command[3].split(",")) {
                    if (!pair.isEmpty()) {
                        configs.put(pair.substring(0, pair.indexOf('=')), pair.substring(pair.indexOf('=') + 1));
                    }
                }
                NewTopic topic = new NewTopic(command[1], Integer.parseInt(command[2]), (short) 1).configs(configs);
                admin.createTopics(List.of(topic)).all().get();
                return "";
            }
            case "delete":
                admin.deleteTopics(List.of(command[1])).all().get();
                return "";
            case "grow":
                admin.createPartitions(Map.of(command[1], NewPartitions.increaseTo(Integer.parseInt(command[2])))).all().get();
                return "";
            case "describe":
                return "" + admin.describeTopics(List.of(command[1])).allTopicNames().get().get(command[1]).partitions().size();
            case "get-config": {
                ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, command[1]);
                return admin.describeConfigs(List.of(topic)).all().get().get(topic).get(command[2]).value();
            }
            case "set-config": {
                ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, command[1]);
                AlterConfigOp set = new AlterConfigOp(new ConfigEntry(command[2], command[3]), AlterConfigOp.OpType.SET);
                admin.incrementalAlterConfigs(Map.of(topic, List.of(set))).all().get();
                return "";
            }
            case "delete-records": {
                TopicPartition partition = new TopicPartition(command[1], Integer.parseInt(command[2]));
                RecordsToDelete before = RecordsToDelete.beforeOffset(Long.parseLong(command[3]));
                return "" + admin.deleteRecords(Map.of(partition, before)).lowWatermarks().get(partition).get().lowWatermark();
            }
            case "log-dirs": {
                long bytes = 0;
                for (var folders : admin.describeLogDirs(List.of(1)).allDescriptions().get().values()) {
                    for (var folder : folders.values()) {
                        for (var replica : folder.replicaInfos().entrySet()) {
                            if (replica.getKey().topic().equals(command[1])) {
                                bytes += replica.getValue().size();
                            }
                        }
                    }
                }
                return "" + bytes;
            }
            case "cluster": {
                var cluster = admin.describeCluster();
                return cluster.clusterId().get() + "\t" + cluster.nodes().get().size() + "\t" + cluster.controller().get().id();
            }
            case "producers": {
                TopicPartition partition = new TopicPartition(command[1], Integer.parseInt(command[2]));
                return "" + admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers().size();
            }
            case "tool":
                return tool(command);
            default:
                throw new IllegalArgumentException("no such command: " + command[0]);
        }
    }

    private static String produce(String topic, String file, String codec, String acks, boolean idempotent) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("key.serializer", ByteArraySerializer.class.getName());
        properties.put("value.serializer", ByteArraySerializer.class.getName());
        properties.put("compression.type", codec);
        properties.put("acks", acks);
        properties.put("enable.idempotence", String.valueOf(idempotent));
        properties.put("max.request.size", "1100000");
        properties.put("linger.ms", "5");
        // Several requests in flight reorder only after a retry, and there is none without idempotence.
        properties.put("retries", idempotent ? "10" : "0");
        List<Future<RecordMetadata>> acknowledged = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(properties)) {
            for (Entry entry : read(file)) {
                acknowledged.add(producer.send(new ProducerRecord<>(
                    topic, entry.partition, entry.timestamp < 0 ? null : entry.timestamp, entry.key, entry.value, entry.headers)));
            }
            producer.flush();
        }
        try (DataOutputStream out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(file + ".offsets")))) {
            for (Future<RecordMetadata> one : acknowledged) {
                RecordMetadata metadata = one.get(30, TimeUnit.SECONDS);
                out.writeLong(metadata.hasOffset() ? metadata.offset() : -1);
            }
        }
        return "" + acknowledged.size();
    }

    /** Sends each value to partition 0 of each topic, in one transaction. */
    private static String transact(String id, String topics, String values, boolean commit) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("key.serializer", ByteArraySerializer.class.getName());
        properties.put("value.serializer", ByteArraySerializer.class.getName());
        properties.put("transactional.id", id);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(properties)) {
            producer.initTransactions();
            producer.beginTransaction();
            for (String topic : topics.split(",")) {
                for (String value : values.split(",")) {
                    producer.send(new ProducerRecord<>(topic, 0, null, value.getBytes(StandardCharsets.UTF_8)));
                }
            }
            if (commit) {
                producer.commitTransaction();
            } else {
                producer.flush();
                producer.abortTransaction();
            }
        }
        return "";
    }

    /** The first values of partition 0 that a reader of committed records sees. */
    private static String committed(String topic, int count) throws Exception {
        Properties properties = properties();
        properties.put("isolation.level", "read_committed");
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties)) {
            TopicPartition partition = new TopicPartition(topic, 0);
            consumer.assign(List.of(partition));
            consumer.seek(partition, 0);
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            while (values.size() < count) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("after 60 s only " + values);
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    values.add(new String(record.value(), StandardCharsets.UTF_8));
                }
            }
        }
        return String.join(",", values);
    }

    private static KafkaConsumer<byte[], byte[]> consumer() {
        return new KafkaConsumer<>(properties());
    }

    private static Properties properties() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("key.deserializer", ByteArrayDeserializer.class.getName());
        properties.put("value.deserializer", ByteArrayDeserializer.class.getName());
        properties.put("enable.auto.commit", "false");
        return properties;
    }

    private static String consume(String topic, String file, String ranges) throws Exception {
        Map<TopicPartition, Long> ends = new HashMap<>();
        long count = 0;
        try (KafkaConsumer<byte[], byte[]> consumer = consumer();
             DataOutputStream out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(file)))) {
            List<String[]> parts = new ArrayList<>();
            for (String range : ranges.split(",")) {
                String[] part = range.split(":");
                parts.add(part);
                ends.put(new TopicPartition(topic, Integer.parseInt(part[0])), Long.parseLong(part[2]));
            }
            consumer.assign(ends.keySet());
            for (String[] part : parts) {
                consumer.seek(new TopicPartition(topic, Integer.parseInt(part[0])), Long.parseLong(part[1]));
            }
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            while (!ends.isEmpty()) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("after 60 s still to come: " + ends);
                }
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    Long end = ends.get(new TopicPartition(topic, record.partition()));
                    if (end != null && record.offset() < end) {
                        write(out, record);
                        count++;
                    }
                }
                if (ends.entrySet().removeIf(entry -> consumer.position(entry.getKey()) >= entry.getValue())) {
                    consumer.assign(ends.keySet());
                }
            }
        }
        return "" + count;
    }

    /** Joins the group, reads until there are {@code least} records or more, commits what it read, and leaves. */
    private static String group(String topic, String file, String group, String protocol, int least) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("key.deserializer", ByteArrayDeserializer.class.getName());
        properties.put("value.deserializer", ByteArrayDeserializer.class.getName());
        properties.put("enable.auto.commit", "false");
        properties.put("auto.offset.reset", "earliest");
        properties.put("max.poll.records", "100");
        properties.put("group.id", group);
        if (protocol.equals("consumer")) {
            properties.put("group.protocol", "consumer");
        } else {
            properties.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer." + protocol);
        }
        int count = 0;
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties);
             DataOutputStream out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(file)))) {
            consumer.subscribe(List.of(topic));
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            while (count < least) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException(count + " of " + least + " after 60 s");
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    write(out, record);
                    count++;
                }
            }
            consumer.commitSync();
        }
        return "" + count;
    }

    private static String offset(TopicPartition partition, String which) throws Exception {
        OffsetSpec spec;
        switch (which) {
            case "earliest":
                spec = OffsetSpec.earliest();
                break;
            case "latest":
                spec = OffsetSpec.latest();
                break;
            case "max":
                spec = OffsetSpec.maxTimestamp();
                break;
            default:
                long timestamp = Long.parseLong(which);
                long listed = admin.listOffsets(Map.of(partition, OffsetSpec.forTimestamp(timestamp))).partitionResult(partition).get().offset();
                try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
                    OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, timestamp)).get(partition);
                    long sought = found == null ? -1 : found.offset();
                    if (sought != listed) {
                        throw new IllegalStateException("the admin client says " + listed + ", the consumer " + sought);
                    }
                }
                return "" + listed;
        }
        return "" + admin.listOffsets(Map.of(partition, spec)).partitionResult(partition).get().offset();
    }

    /** Runs the main method of a tool: tool, class, standard input (escaped), arguments. */
    private static String tool(String[] command) throws Exception {
        System.setIn(new ByteArrayInputStream(command[2].replace("\\n", "\n").replace("\\t", "\t").getBytes(StandardCharsets.UTF_8)));
        synchronized (PRINTED) {
            PRINTED.reset();
        }
        exitStatus = null;
        PrintStream problems = System.err;
        System.setErr(System.out);
        try {
            String[] arguments = Arrays.copyOfRange(command, 3, command.length);
            Class.forName(command[1]).getMethod("main", String[].class).invoke(null, (Object) arguments);
        } catch (InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof Exited)) {
                throw thrown;
            }
        } finally {
            System.setErr(problems);
        }
        System.out.flush();
        synchronized (PRINTED) {
            return (exitStatus == null ? 0 : exitStatus) + "\t" + escape(PRINTED.toString(StandardCharsets.UTF_8));
        }
    }

    private static List<Entry> read(String file) throws Exception {
        List<Entry> entries = new ArrayList<>();
        try (DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream(file), 1 << 20))) {
            while (true) {
                int partition;
                try {
                    partition = in.readInt();
                } catch (EOFException end) {
                    return entries;
                }
                long offset = in.readLong();
                long timestamp = in.readLong();
                byte[] key = bytes(in);
                byte[] value = bytes(in);
                List<Header> headers = new ArrayList<>();
                for (int left = in.readInt(); left > 0; left--) {
                    String name = new String(bytes(in), StandardCharsets.UTF_8);
                    headers.add(new RecordHeader(name, bytes(in)));
                }
                entries.add(new Entry(partition, offset, timestamp, key, value, headers));
            }
        }
    }

    private static byte[] bytes(DataInputStream in) throws Exception {
        int length = in.readInt();
        if (length < 0) {
            return null;
        }
        byte[] bytes = new byte[length];
        in.readFully(bytes);
        return bytes;
    }

    private static void write(DataOutputStream out, ConsumerRecord<byte[], byte[]> record) throws Exception {
        out.writeInt(record.partition());
        out.writeLong(record.offset());
        out.writeLong(record.timestamp());
        write(out, record.key());
        write(out, record.value());
        Header[] headers = record.headers().toArray();
        out.writeInt(headers.length);
        for (Header header : headers) {
            write(out, header.key().getBytes(StandardCharsets.UTF_8));
            write(out, header.value());
        }
    }

    private static void write(DataOutputStream out, byte[] bytes) throws Exception {
        out.writeInt(bytes == null ? -1 : bytes.length);
        if (bytes != null) {
            out.write(bytes);
        }
    }
}
