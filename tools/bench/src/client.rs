//! The requests that are rare: versions, metadata, topics, offsets, producer ids. One blocking connection
//! with a deadline; the load has connections of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, StrBytes,
    encode_request_header_into_buffer,
};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A larger answer to one of these requests is not believed.
const MAX_ANSWER: usize = 256 << 20;

/// Unknown, without a leader, led by somebody else: all pass.
const NOT_LED: [i16; 3] = [3, 5, 6];

/// Kafka's name of an error code.
pub fn error_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(ResponseError::Unknown(code)) => format!("error {code}"),
        Some(error) => format!("{error:?}"),
        None => "no error".into(),
    }
}

/// Connects to `host:port`.
pub fn connect(address: &str) -> Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address
        .to_socket_addrs()
        .with_context(|| format!("{address} is no address"))?
        .collect();
    let mut last = anyhow!("{address} has no address");
    for candidate in addresses {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last.context(format!("no broker answers at {address}")))
}

/// A connection for rare requests.
pub struct Client {
    stream: TcpStream,
    address: String,
    correlation: i32,
    /// Least and greatest version of each API.
    versions: BTreeMap<i16, (i16, i16)>,
}

/// The cluster as far as a load needs it.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Addresses by node id.
    pub brokers: BTreeMap<i32, String>,
    /// Node ids of the leaders of each partition, by topic.
    pub leaders: BTreeMap<String, Vec<i32>>,
}

impl Client {
    /// Connects to the first of the addresses (`host:port,host:port`) that answers.
    pub fn bootstrap(addresses: &str) -> Result<Client> {
        let mut last = anyhow!("--bootstrap names no address");
        for address in addresses.split(',').map(str::trim) {
            match Client::connect(address) {
                Ok(client) => return Ok(client),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub fn connect(address: &str) -> Result<Client> {
        let stream = connect(address)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut client = Client {
            stream,
            address: address.into(),
            correlation: 0,
            versions: BTreeMap::from([(ApiVersionsRequest::KEY, (0, 0))]),
        };
        let answer = client
            .ask(&ApiVersionsRequest::default(), 0)
            .with_context(|| format!("{address} does not answer as a Kafka broker does"))?;
        ensure!(
            answer.error_code == 0,
            "{address} answers ApiVersions with {}",
            error_name(answer.error_code)
        );
        for api in answer.api_keys {
            let range = (api.min_version, api.max_version);
            client.versions.insert(api.api_key, range);
        }
        Ok(client)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The greatest version of an API that both sides know, `ours` being the least and greatest of ours.
    pub fn version(&self, api_key: i16, ours: (i16, i16)) -> Result<i16> {
        let Some(&(least, greatest)) = self.versions.get(&api_key) else {
            bail!("{} does not serve API {api_key}", self.address);
        };
        let version = greatest.min(ours.1);
        ensure!(
            version >= least.max(ours.0),
            "{} serves API {api_key} in versions {least} to {greatest}, and we speak {} to {}",
            self.address,
            ours.0,
            ours.1
        );
        Ok(version)
    }

    fn ask<R>(&mut self, request: &R, most: i16) -> Result<R::Response>
    where
        R: Request + Message + Encodable + HeaderVersion,
    {
        let versions = R::VERSIONS;
        let version = self.version(R::KEY, (versions.min, versions.max.min(most)))?;
        self.correlation += 1;
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("ringspun-bench")));
        encode_request_header_into_buffer(&mut frame, &header)?;
        request.encode(&mut frame, version)?;
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.exchange(&frame, self.correlation)
            .and_then(|mut answer| {
                let header = R::Response::header_version(version);
                ResponseHeader::decode(&mut answer, header)?;
                R::Response::decode(&mut answer, version)
            })
            .with_context(|| format!("API {} at {}", R::KEY, self.address))
    }

    fn exchange(&mut self, frame: &[u8], correlation: i32) -> Result<Bytes> {
        self.stream.write_all(frame).context("sending a request")?;
        let mut length = [0; 4];
        self.stream
            .read_exact(&mut length)
            .context("waiting for an answer")?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        ensure!(
            (4..=MAX_ANSWER).contains(&length),
            "an answer of {length} bytes"
        );
        let mut answer = vec![0; length];
        self.stream
            .read_exact(&mut answer)
            .context("reading an answer")?;
        let answer = Bytes::from(answer);
        let answered = answer.clone().get_i32();
        ensure!(
            answered == correlation,
            "an answer to request {answered} instead of {correlation}"
        );
        Ok(answer)
    }

    /// Creates topics and waits until each partition has a leader.
    pub fn create_topics(
        &mut self,
        names: &[String],
        partitions: u32,
        replication_factor: i16,
        configs: &BTreeMap<String, String>,
    ) -> Result<Cluster> {
        // A broker may limit the partitions created by one request.
        let a_time = (5_000 / partitions.max(1)).max(1) as usize;
        for names in names.chunks(a_time) {
            let topics = names
                .iter()
                .map(|name| {
                    let configs = configs
                        .iter()
                        .map(|(name, value)| {
                            CreatableTopicConfig::default()
                                .with_name(StrBytes::from_string(name.clone()))
                                .with_value(Some(StrBytes::from_string(value.clone())))
                        })
                        .collect();
                    CreatableTopic::default()
                        .with_name(topic_name(name))
                        .with_num_partitions(partitions as i32)
                        .with_replication_factor(replication_factor)
                        .with_configs(configs)
                })
                .collect();
            let request = CreateTopicsRequest::default()
                .with_topics(topics)
                .with_timeout_ms(50_000);
            let answer = self.ask(&request, 7)?;
            for topic in answer.topics {
                ensure!(
                    topic.error_code == 0,
                    "topic {} cannot be created: {}{}",
                    topic.name.as_str(),
                    error_name(topic.error_code),
                    topic
                        .error_message
                        .map_or(String::new(), |it| format!(" ({})", it.as_str()))
                );
            }
        }
        self.wait_for_leaders(names, partitions)
    }

    fn wait_for_leaders(&mut self, names: &[String], partitions: u32) -> Result<Cluster> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let cluster = self.metadata(names)?;
            let led = |name: &String| {
                cluster.leaders.get(name).is_some_and(|leaders| {
                    leaders.len() == partitions as usize
                        && leaders.iter().all(|id| cluster.brokers.contains_key(id))
                })
            };
            match names.iter().find(|&name| !led(name)) {
                None => return Ok(cluster),
                Some(name) => ensure!(
                    Instant::now() < deadline,
                    "topic {name} has partitions without a leader"
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Brokers, and the leaders of these topics' partitions: -1 where there is none.
    pub fn metadata(&mut self, names: &[String]) -> Result<Cluster> {
        let topics = names
            .iter()
            .map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))))
            .collect();
        let request = MetadataRequest::default().with_topics(Some(topics));
        let answer = self.ask(&request, 12)?;
        let mut cluster = Cluster::default();
        for broker in answer.brokers {
            let address = if broker.host.as_str().contains(':') {
                format!("[{}]:{}", broker.host.as_str(), broker.port)
            } else {
                format!("{}:{}", broker.host.as_str(), broker.port)
            };
            cluster.brokers.insert(broker.node_id.0, address);
        }
        for topic in answer.topics {
            let name = topic.name.map_or(String::new(), |name| name.to_string());
            let mut leaders = vec![-1; topic.partitions.len()];
            for partition in topic.partitions {
                if let Ok(index) = usize::try_from(partition.partition_index)
                    && let Some(leader) = leaders.get_mut(index)
                {
                    *leader = partition.leader_id.0;
                }
            }
            cluster.leaders.insert(name, leaders);
        }
        Ok(cluster)
    }

    /// Deletes topics; one that is not there does not matter.
    pub fn delete_topics(&mut self, names: &[String]) -> Result<()> {
        for names in names.chunks(1000) {
            let names: Vec<TopicName> = names.iter().map(|name| topic_name(name)).collect();
            let version = self.version(DeleteTopicsRequest::KEY, (1, 6))?;
            let request = if version >= 6 {
                let states = names
                    .into_iter()
                    .map(|name| DeleteTopicState::default().with_name(Some(name)));
                DeleteTopicsRequest::default().with_topics(states.collect())
            } else {
                DeleteTopicsRequest::default().with_topic_names(names)
            };
            let answer = self.ask(&request.with_timeout_ms(30_000), 6)?;
            for topic in answer.responses {
                ensure!(
                    topic.error_code == 0
                        || topic.error_code == ResponseError::UnknownTopicOrPartition.code(),
                    "topic {} cannot be deleted: {}",
                    topic.name.map_or(String::new(), |name| name.to_string()),
                    error_name(topic.error_code)
                );
            }
        }
        Ok(())
    }

    /// The offsets at `timestamp` (-1: the end, -2: the beginning) of partitions that this broker leads.
    pub fn offsets(
        &mut self,
        partitions: &[(String, u32)],
        timestamp: i64,
    ) -> Result<BTreeMap<(String, u32), i64>> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut offsets = BTreeMap::new();
        let mut left = partitions.to_vec();
        while !left.is_empty() {
            let a_time = left.len().min(10_000);
            let refused = self.offsets_once(&left[..a_time], timestamp, &mut offsets)?;
            left.drain(..a_time);
            if let Some((topic, partition, error)) = refused.first() {
                ensure!(
                    Instant::now() < deadline,
                    "offsets of {topic} {partition}: {}",
                    error_name(*error)
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            left.extend(
                refused
                    .into_iter()
                    .map(|(topic, partition, _)| (topic, partition)),
            );
        }
        Ok(offsets)
    }

    /// Those that are not led yet, with their errors. A broker may name a leader before that leads.
    fn offsets_once(
        &mut self,
        partitions: &[(String, u32)],
        timestamp: i64,
        offsets: &mut BTreeMap<(String, u32), i64>,
    ) -> Result<Vec<(String, u32, i16)>> {
        let mut refused = Vec::new();
        let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for (topic, partition) in partitions {
            topics.entry(topic).or_default().push(
                ListOffsetsPartition::default()
                    .with_partition_index(*partition as i32)
                    .with_current_leader_epoch(-1)
                    .with_timestamp(timestamp),
            );
        }
        let topics = topics
            .into_iter()
            .map(|(name, partitions)| {
                ListOffsetsTopic::default()
                    .with_name(topic_name(name))
                    .with_partitions(partitions)
            })
            .collect();
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(topics);
        for topic in self.ask(&request, 7)?.topics {
            for partition in topic.partitions {
                let name = topic.name.to_string();
                let index = partition.partition_index as u32;
                if NOT_LED.contains(&partition.error_code) {
                    refused.push((name, index, partition.error_code));
                    continue;
                }
                ensure!(
                    partition.error_code == 0,
                    "offsets of {} {}: {}",
                    topic.name.as_str(),
                    partition.partition_index,
                    error_name(partition.error_code)
                );
                offsets.insert((name, index), partition.offset);
            }
        }
        Ok(refused)
    }

    /// A new producer id and epoch.
    pub fn producer_id(&mut self) -> Result<(i64, i16)> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let answer = self.ask(&request, 4)?;
            match ResponseError::try_from_code(answer.error_code) {
                None => return Ok((answer.producer_id.0, answer.producer_epoch)),
                Some(error) if error.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Some(error) => bail!("no producer id: {error:?}"),
            }
        }
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName::from(StrBytes::from_string(name.into()))
}
