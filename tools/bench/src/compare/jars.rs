//! Apache Kafka's jars, by Maven, into a folder that is kept: the one that the tests of the broker use,
//! when this program lies in a `target` folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Names the jars.
const POM: &str = include_str!("../../../../tests/clients/java/pom.xml");
const LOGGING: &str = include_str!("../../../../tests/clients/java/log4j2.properties");

/// The version that [`POM`] names.
pub fn kafka_version() -> &'static str {
    let of_kafka = POM
        .split("<artifactId>kafka_2.13</artifactId><version>")
        .nth(1);
    of_kafka
        .and_then(|rest| rest.split('<').next())
        .unwrap_or("unknown")
}

/// A program on the path, or how to get it.
pub fn program(name: &str, path: Option<&std::ffi::OsStr>, remedy: &str) -> Result<PathBuf> {
    std::env::split_paths(path.unwrap_or_default())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed, and Apache Kafka needs it: {remedy} (or compare without it: --only ringspun)"))
}

/// Where jars are kept unless `--cache` says otherwise.
fn default_cache() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    // target/PROFILE/ringspun-bench
    let target = program.parent().and_then(Path::parent);
    if let Some(target) = target.filter(|target| target.ends_with("target")) {
        return Ok(target.join("clients"));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(cache
        .context("no HOME to keep jars in; say --cache DIR")?
        .join("ringspun-bench"))
}

/// A Java machine and the jars it is to run.
#[derive(Clone, Debug)]
pub struct Java {
    program: PathBuf,
    jars: PathBuf,
    logging: PathBuf,
}

impl Java {
    /// Finds Java, and fetches the jars unless they are there.
    pub fn get(cache: Option<&Path>) -> Result<Java> {
        let path = std::env::var_os("PATH");
        let program = program(
            "java",
            path.as_deref(),
            "apt-get install openjdk-17-jdk-headless",
        )?;
        let cache = match cache {
            // Maven takes a relative path from where its pom is, Java from where it is started.
            Some(cache) => std::path::absolute(cache)?,
            None => default_cache()?,
        };
        let jars = fetched(&cache, path.as_deref()).with_context(|| {
            format!(
                "the jars of Apache Kafka {} are not in {}",
                kafka_version(),
                cache.display()
            )
        })?;
        let logging = cache.join("log4j2.properties");
        fs::write(&logging, LOGGING)?;
        Ok(Java {
            program,
            jars,
            logging,
        })
    }

    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(options)
            .arg("-Djava.awt.headless=true")
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.logging.display()
            ))
            .arg("-cp")
            .arg(format!("{}/*", self.jars.display()))
            .env_remove("JAVA_TOOL_OPTIONS")
            .env_remove("KAFKA_OPTS");
        command
    }

    /// As `java -version` says it.
    pub fn version(&self) -> String {
        let output = Command::new(&self.program).arg("-version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stderr).into_owned());
        let text = text.unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    }
}

/// The folder of jars. Made from the same list before, it is taken as it is.
fn fetched(cache: &Path, path: Option<&std::ffi::OsStr>) -> Result<PathBuf> {
    fs::create_dir_all(cache)?;
    let lock = File::create(cache.join("jars.lock"))?;
    lock.lock()?;
    let (jars, mark) = (cache.join("jars"), cache.join("jars.from"));
    if fs::read(&mark).is_ok_and(|from| from == POM.as_bytes()) && jars.is_dir() {
        return Ok(jars);
    }
    let maven = program("mvn", path, "apt-get install maven")?;
    eprintln!(
        "fetching Apache Kafka {} into {}",
        kafka_version(),
        jars.display()
    );
    let _ = fs::remove_dir_all(&jars);
    fs::create_dir_all(&jars)?;
    let pom = cache.join("pom.xml");
    fs::write(&pom, POM)?;
    let output = Command::new(maven)
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", jars.display()))
        .output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("ERROR"))
            .take(3)
            .collect();
        bail!("Maven could not fetch them:\n{}", lines.join("\n"));
    }
    fs::write(&mark, POM)?;
    Ok(jars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_fetched() {
        assert_eq!(kafka_version(), "4.3.1");
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_its_remedy() {
        let nowhere = std::ffi::OsStr::new("/nonexistent");
        let error = program("mvn", Some(nowhere), "apt-get install maven").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("mvn is not installed") && text.contains("apt-get install maven"));
    }

    #[test]
    fn jars_of_the_same_list_are_taken_as_they_are() {
        let cache = tempfile::tempdir().expect("a folder");
        fs::create_dir(cache.path().join("jars")).expect("a folder");
        fs::write(cache.path().join("jars.from"), POM).expect("a mark");
        assert!(fetched(cache.path(), None).is_ok());
        fs::write(cache.path().join("jars.from"), "others").expect("a mark");
        let error = format!("{:#}", fetched(cache.path(), None).unwrap_err());
        assert!(error.contains("mvn is not installed"), "{error}");
    }
}
