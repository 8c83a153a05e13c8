// Members of consumer groups, told what to do by lines of fields separated by tabs; each is answered by one
// line, "ok" and fields, or "error" and a text. See tests/consumer_groups.rs.
//
//   start NAME GROUP key=value...   protocol, topics (A+B) or regex, instance, assignor, strategy, interval
//   stop NAME...                    closes, which leaves the group
//   settled A+B NAME...             waits until these members own all partitions, as many each; who owns what
//   consumed COUNT NAME...          waits until they have read so many records together
//   await GROUP STATE TYPE MEMBERS  waits until the group is so
//   describe GROUP                  state, type, assignor, members
//   create TOPIC PARTITIONS         grow TOPIC PARTITIONS      delete-group GROUP
//   produce TOPIC COUNT             over all partitions in turn
//   committed GROUP                 the sum of the offsets
//   failures NAME                   what the member threw, if anything

import java.io.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.*;

public class Members {
    static String bootstrap;
    static Admin admin;
    static final Object changed = new Object();
    static final Map<String, Member> members = new HashMap<>();
    static final long TIMEOUT_MS = 100_000;

    static class Member extends Thread {
        final KafkaConsumer<byte[], byte[]> consumer;
        volatile boolean stop;
        volatile Set<TopicPartition> assigned = Set.of();
        volatile long consumed;
        volatile String failure = "";

        Member(String group, Map<String, String> options) {
            Properties p = new Properties();
            p.put("bootstrap.servers", bootstrap);
            p.put("group.id", group);
            p.put("group.protocol", options.getOrDefault("protocol", "consumer"));
            p.put("auto.offset.reset", "earliest");
            p.put("enable.auto.commit", "false");
            p.put("metadata.max.age.ms", "1000");
            p.put("key.deserializer", ByteArrayDeserializer.class.getName());
            p.put("value.deserializer", ByteArrayDeserializer.class.getName());
            if (options.containsKey("instance")) p.put("group.instance.id", options.get("instance"));
            if (options.containsKey("assignor")) p.put("group.remote.assignor", options.get("assignor"));
            if (options.containsKey("strategy")) p.put("partition.assignment.strategy", options.get("strategy"));
            if (options.get("protocol") != null && options.get("protocol").equals("classic")) {
                p.put("session.timeout.ms", "10000");
                p.put("heartbeat.interval.ms", "500");
            }
            consumer = new KafkaConsumer<>(p);
            if (options.containsKey("regex")) consumer.subscribe(new SubscriptionPattern(options.get("regex")));
            else consumer.subscribe(List.of(options.get("topics").split("\\+")));
            setDaemon(true);
        }

        @Override public void run() {
            try {
                while (!stop) {
                    int count = 0;
                    try {
                        count = consumer.poll(Duration.ofMillis(100)).count();
                        if (count > 0) consumer.commitSync();
                    } catch (CommitFailedException | org.apache.kafka.common.errors.RebalanceInProgressException e) {
                        // Somebody else has the partition and reads it again.
                    }
                    synchronized (changed) {
                        consumed += count;
                        assigned = Set.copyOf(consumer.assignment());
                        changed.notifyAll();
                    }
                }
                consumer.close();
            } catch (Throwable e) {
                failure = e.toString();
            }
            synchronized (changed) {
                assigned = Set.of();
                changed.notifyAll();
            }
        }
    }

    interface Condition { String check() throws Exception; }

    /** Waits until the condition says something. */
    static String await(Condition condition, Callable<String> otherwise) throws Exception {
        long deadline = System.currentTimeMillis() + TIMEOUT_MS;
        while (true) {
            String answer = condition.check();
            if (answer != null) return answer;
            if (System.currentTimeMillis() > deadline) throw new TimeoutException(otherwise.call());
            synchronized (changed) { changed.wait(200); }
        }
    }

    static String owners(List<String> names) {
        return names.stream().map(name -> name + "=" + members.get(name).assigned.stream()
            .map(TopicPartition::toString).sorted().collect(Collectors.joining(","))
            + members.get(name).failure).collect(Collectors.joining(" "));
    }

    static ConsumerGroupDescription describe(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).describedGroups().get(group).get();
    }

    static String show(ConsumerGroupDescription d) {
        return d.groupState() + "\t" + d.type() + "\t" + d.partitionAssignor() + "\t" + d.members().size();
    }

    static String run(String[] f) throws Exception {
        switch (f[0]) {
            case "start": {
                Map<String, String> options = new HashMap<>();
                for (int i = 3; i < f.length; i++) {
                    String[] pair = f[i].split("=", 2);
                    options.put(pair[0], pair[1]);
                }
                Member member = new Member(f[2], options);
                members.put(f[1], member);
                member.start();
                return "";
            }
            case "stop":
                for (int i = 1; i < f.length; i++) members.get(f[i]).stop = true;
                for (int i = 1; i < f.length; i++) members.get(f[i]).join();
                return "";
            case "settled": {
                List<String> topics = List.of(f[1].split("\\+"));
                int total = admin.describeTopics(topics).allTopicNames().get().values().stream()
                    .mapToInt(t -> t.partitions().size()).sum();
                List<String> names = Arrays.asList(f).subList(2, f.length);
                return await(() -> {
                    Set<TopicPartition> all = new HashSet<>();
                    int sum = 0, least = total, most = 0;
                    for (String name : names) {
                        Set<TopicPartition> assigned = members.get(name).assigned;
                        all.addAll(assigned);
                        sum += assigned.size();
                        least = Math.min(least, assigned.size());
                        most = Math.max(most, assigned.size());
                    }
                    return all.size() == total && sum == total && most - least <= 1 ? "\t" + owners(names).replace(' ', '\t') : null;
                }, () -> "not settled: " + owners(names));
            }
            case "consumed": {
                long count = Long.parseLong(f[1]);
                List<String> names = Arrays.asList(f).subList(2, f.length);
                return "\t" + await(() -> {
                    long sum = names.stream().mapToLong(name -> members.get(name).consumed).sum();
                    return sum >= count ? "" + sum : null;
                }, () -> "read " + names.stream().mapToLong(n -> members.get(n).consumed).sum() + ", " + owners(names));
            }
            case "await":
                return "\t" + await(() -> {
                    ConsumerGroupDescription d = describe(f[1]);
                    boolean so = d.groupState().toString().equals(f[2]) && d.type().toString().equals(f[3])
                        && d.members().size() == Integer.parseInt(f[4]);
                    return so ? show(d) : null;
                }, () -> show(describe(f[1])));
            case "describe":
                return "\t" + show(describe(f[1]));
            case "create":
                admin.createTopics(List.of(new NewTopic(f[1], Integer.parseInt(f[2]), (short) 1))).all().get();
                return "";
            case "grow":
                admin.createPartitions(Map.of(f[1], NewPartitions.increaseTo(Integer.parseInt(f[2])))).all().get();
                return "";
            case "delete-group":
                admin.deleteConsumerGroups(List.of(f[1])).all().get();
                return "";
            case "produce": {
                Properties p = new Properties();
                p.put("bootstrap.servers", bootstrap);
                p.put("key.serializer", ByteArraySerializer.class.getName());
                p.put("value.serializer", ByteArraySerializer.class.getName());
                try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p)) {
                    int partitions = producer.partitionsFor(f[1]).size();
                    List<Future<?>> sent = new ArrayList<>();
                    for (int i = 0; i < Integer.parseInt(f[2]); i++)
                        sent.add(producer.send(new ProducerRecord<>(f[1], i % partitions, null, new byte[10])));
                    for (Future<?> future : sent) future.get();
                }
                return "";
            }
            case "committed":
                return "\t" + admin.listConsumerGroupOffsets(f[1]).partitionsToOffsetAndMetadata().get().values()
                    .stream().mapToLong(OffsetAndMetadata::offset).sum();
            case "failures":
                return "\t" + members.get(f[1]).failure;
            default:
                throw new IllegalArgumentException(f[0]);
        }
    }

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
        for (String line; (line = in.readLine()) != null; ) {
            try {
                out.println("ok" + run(line.split("\t")));
            } catch (Throwable e) {
                Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
                out.println("error\t" + cause.toString().replace('\t', ' ').replace('\n', ' '));
            }
        }
        System.exit(0);
    }
}
