//! What the tests need of other people's: fetched once by the ordinary package managers, at pinned
//! versions, into `target/clients/`.
//!
//! Each function answers with where the thing is, or why it is not there. A test that lacks something
//! is skipped with that reason, or fails if `RINGSPUN_REQUIRE_ALL=1`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `target/clients`.
pub fn folder() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("below target");
    let folder = target.join("clients");
    fs::create_dir_all(&folder).expect("a folder below target");
    folder
}

/// `tests/clients/NAME` of the sources.
fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// Whether something missing is a failure.
pub fn all_required() -> bool {
    std::env::var("RINGSPUN_REQUIRE_ALL").is_ok_and(|value| !value.is_empty() && value != "0")
}

/// The path of a program, or how to get it.
pub fn program(name: &str, remedy: &str) -> Result<PathBuf, String> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed: {remedy}"))
}

/// The folder `name`, made by `install` unless it was made from the same `inputs` before.
fn made(
    name: &str,
    inputs: &[PathBuf],
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let folder = folder();
    let lock =
        File::create(folder.join(format!("{name}.lock"))).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let mut stamp = Vec::new();
    for input in inputs {
        stamp.extend(fs::read(input).map_err(|error| format!("{}: {error}", input.display()))?);
    }
    let (made, mark) = (folder.join(name), folder.join(format!("{name}.from")));
    if fs::read(&mark).is_ok_and(|last| last == stamp) && made.is_dir() {
        return Ok(made);
    }
    let _ = fs::remove_dir_all(&made);
    fs::create_dir_all(&made).map_err(|error| error.to_string())?;
    install(&made)?;
    fs::write(&mark, &stamp).map_err(|error| error.to_string())?;
    Ok(made)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    Err(format!("{command:?}: {}\n{last}", output.status))
}

/// The jars of Apache Kafka: clients, tools, broker.
pub fn jars() -> Result<PathBuf, String> {
    program("java", "apt-get install openjdk-17-jdk-headless")?;
    let pom = sources("java/pom.xml");
    made("jars", std::slice::from_ref(&pom), |folder| {
        let maven = program("mvn", "apt-get install maven")?;
        run(Command::new(maven)
            .args(["-q", "-B", "-f"])
            .arg(&pom)
            .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", folder.display())))
    })
}

/// A Java machine over those jars; the class and its arguments are the caller's to add.
pub fn java(jars: &Path) -> Command {
    java_with(jars, &["-Xmx1G", "-XX:+UseSerialGC"])
}

/// The same with the options of Kafka's own start script, and a heap of 4 GiB.
pub fn java_for_measuring(jars: &Path) -> Command {
    let options = [
        "-Xms4G",
        "-Xmx4G",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExplicitGCInvokesConcurrent",
        "-XX:G1HeapRegionSize=16M",
    ];
    java_with(jars, &options)
}

fn java_with(jars: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(options).arg("-Djava.awt.headless=true");
    let logging = sources("java/log4j2.properties");
    command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    command.arg("-cp").arg(format!("{}/*", jars.display()));
    command
}

/// The program that drives the Java client and the tools.
pub fn java_driver() -> Result<Command, String> {
    let jars = jars()?;
    let source = sources("java/Driver.java");
    let classes = made("java", std::slice::from_ref(&source), |folder| {
        let compiler = program("javac", "apt-get install openjdk-17-jdk-headless")?;
        run(Command::new(compiler)
            .arg("-cp")
            .arg(format!("{}/*", jars.display()))
            .arg("-d")
            .arg(folder)
            .arg(&source))
    })?;
    let mut command = java(&jars);
    // The last -cp counts.
    command
        .arg("-cp")
        .arg(format!("{}:{}/*", classes.display(), jars.display()))
        .arg("Driver");
    Ok(command)
}

/// The jars of Kafka Streams and of Kafka Connect's connectors for files.
fn application_jars() -> Result<PathBuf, String> {
    program("java", "apt-get install openjdk-17-jdk-headless")?;
    let pom = sources("java/applications.xml");
    made("application-jars", std::slice::from_ref(&pom), |folder| {
        let maven = program("mvn", "apt-get install maven")?;
        run(Command::new(maven)
            .args(["-q", "-B", "-f"])
            .arg(&pom)
            .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", folder.display())))
    })
}

/// A class with all that it needs; its arguments are the caller's to add.
pub struct JavaProgram {
    jars: PathBuf,
    class_path: String,
    class: &'static str,
}

impl JavaProgram {
    pub fn command(&self) -> Command {
        let mut command = java(&self.jars);
        // The last -cp counts.
        command.arg("-cp").arg(&self.class_path).arg(self.class);
        command
    }
}

/// The word count of Kafka Streams.
pub fn word_count() -> Result<JavaProgram, String> {
    let (jars, more) = (jars()?, application_jars()?);
    let class_path = format!("{}/*:{}/*", more.display(), jars.display());
    let source = sources("java/WordCount.java");
    let classes = made("word-count", std::slice::from_ref(&source), |folder| {
        let compiler = program("javac", "apt-get install openjdk-17-jdk-headless")?;
        run(Command::new(compiler)
            .args(["-cp", &class_path, "-d"])
            .arg(folder)
            .arg(&source))
    })?;
    Ok(JavaProgram {
        jars,
        class_path: format!("{}:{class_path}", classes.display()),
        class: "WordCount",
    })
}

/// A distributed worker of Kafka Connect.
pub fn connect_worker() -> Result<JavaProgram, String> {
    let (jars, more) = (jars()?, application_jars()?);
    Ok(JavaProgram {
        class_path: format!("{}/*:{}/*", jars.display(), more.display()),
        jars,
        class: "org.apache.kafka.connect.cli.ConnectDistributed",
    })
}

/// The program that drives confluent-kafka.
pub fn python_driver() -> Result<Command, String> {
    let requirements = sources("python/requirements.txt");
    let environment = made("python", std::slice::from_ref(&requirements), |folder| {
        let python = program("python3", "apt-get install python3 python3-venv")?;
        run(Command::new(python).args(["-m", "venv"]).arg(folder))?;
        run(Command::new(folder.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements))
    })?;
    let mut command = Command::new(environment.join("bin/python"));
    command.arg(sources("python/driver.py"));
    Ok(command)
}

/// The program that drives kafkajs.
pub fn kafkajs_driver() -> Result<Command, String> {
    let node = program("node", "apt-get install nodejs npm")?;
    let (package, lock) = (
        sources("kafkajs/package.json"),
        sources("kafkajs/package-lock.json"),
    );
    let folder = made("kafkajs", &[package.clone(), lock.clone()], |folder| {
        let npm = program("npm", "apt-get install npm")?;
        fs::copy(&package, folder.join("package.json")).map_err(|error| error.to_string())?;
        fs::copy(&lock, folder.join("package-lock.json")).map_err(|error| error.to_string())?;
        run(Command::new(npm)
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(folder))
    })?;
    let mut command = Command::new(node);
    command
        .env("NODE_PATH", folder.join("node_modules"))
        .env("KAFKAJS_NO_PARTITIONER_WARNING", "1");
    command.arg(sources("kafkajs/driver.js"));
    Ok(command)
}

/// The program that drives franz-go.
pub fn franz_go_driver() -> Result<Command, String> {
    let inputs = ["go.mod", "go.sum", "main.go"].map(|name| sources("franz-go").join(name));
    let folder = made("franz-go", &inputs, |folder| {
        let go = program(
            "go",
            "apt-get install golang-go, or a newer one from go.dev",
        )?;
        run(Command::new(go)
            .args(["build", "-o"])
            .arg(folder.join("driver"))
            .arg(".")
            .current_dir(sources("franz-go")))
    })?;
    Ok(Command::new(folder.join("driver")))
}

/// Debian's kcat.
pub fn kcat() -> Result<PathBuf, String> {
    program("kcat", "apt-get install kcat")
}
