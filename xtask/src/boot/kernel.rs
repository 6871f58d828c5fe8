//! Debian trixie's cloud kernel: fetched by apt's own client into a folder of ours, checked by Debian's keyring, unpacked once.
//!
//! ```text
//! CACHE/apt/                for the while: the client's own sources and lists; the host's /etc/apt gives proxies only
//! CACHE/kernel-VERSION/     vmlinuz, modules/NN-name.ko in the order in which they load
//! ```
//! With a kernel in the cache nothing is asked of the network. Remove the folder for a newer one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::progress::Line;
use crate::stop::Stop;

/// Depends on the versioned package.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const PREFIX: &str = "kernel-";
/// What the box needs; the modules that these need come along. What is built in needs no file.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "xfs"];

#[derive(Debug)]
pub struct Kernel {
    pub version: String,
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Name and bytes, in the order in which they load.
    pub fn read_modules(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut modules = BTreeMap::new();
        for entry in fs::read_dir(&self.modules).context("the kernel's modules")? {
            let entry = entry?;
            modules.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        }
        Ok(modules.into_iter().collect())
    }
}

pub fn ready(stop: &Stop, cache: &Path) -> Result<Kernel> {
    if let Some(kernel) = newest(cache)? {
        return Ok(kernel);
    }
    let line = Line::new();
    let package = fetch(stop, &cache.join("apt")).context(
        "no kernel: the smoke boot fetches Debian trixie's from deb.debian.org once; give this machine a way there",
    )?;
    unpack(stop, cache, &package)?;
    super::remove(&cache.join("apt"))?;
    line.end("fetched and unpacked Debian's kernel");
    newest(cache)?.context("the kernel was unpacked and is not there")
}

fn newest(cache: &Path) -> Result<Option<Kernel>> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(cache).with_context(|| format!("cannot read {}", cache.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        versions.extend(name.strip_prefix(PREFIX).map(str::to_owned));
    }
    // One, unless somebody put more there; any is good.
    versions.sort();
    Ok(versions.pop().map(|version| {
        let folder = cache.join(format!("{PREFIX}{version}"));
        Kernel { version, image: folder.join("vmlinuz"), modules: folder.join("modules") }
    }))
}

/// The package's file.
fn fetch(stop: &Stop, apt: &Path) -> Result<PathBuf> {
    if !Path::new(KEYRING).exists() {
        bail!("there is no {KEYRING}: apt-get install debian-archive-keyring");
    }
    // apt goes on with old lists when it cannot fetch new ones; here there are none to go on with.
    super::remove(apt)?;
    let config = write_config(apt)?;
    apt_get(stop, &config, apt, &["update"])?;
    let output = Command::new("apt-cache")
        .arg("--config-file")
        .arg(&config)
        .args(["depends", "--important", META_PACKAGE])
        .output()
        .context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = versioned(&text).with_context(|| {
        format!(
            "no package list names the kernel that {META_PACKAGE} depends on; apt-get may have said above why"
        )
    })?;
    apt_get(stop, &config, apt, &["download", name])?;
    let entries = fs::read_dir(apt)?.collect::<Result<Vec<_>, _>>()?;
    let found = entries.iter().map(|entry| entry.path()).find(|path| {
        let file = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    });
    found.with_context(|| format!("apt-get download left no {name} in {}", apt.display()))
}

/// `  Depends: linux-image-6.12.117+deb13-cloud-amd64`.
fn versioned(depends: &str) -> Option<&str> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.into_iter().find(|name| name.starts_with("linux-image-") && name.ends_with("-cloud-amd64"))
}

/// Read after the host's own, which may say how to reach the network; what it says of sources, pins and hooks is undone.
fn write_config(apt: &Path) -> Result<PathBuf> {
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(folder)).with_context(|| format!("cannot make {}", apt.display()))?;
    }
    let at = |name: &str| apt.join(name).display().to_string();
    fs::write(at("status"), "")?;
    let source = format!("deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/debian trixie main\n");
    fs::write(at("sources.list"), source)?;
    // As root apt changes to a user who may not be able to enter this folder.
    let config = format!(
        "#clear APT::Update;\n#clear DPkg;\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
         APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
         Acquire::http::Timeout \"30\";\nDir::Etc::SourceList \"{sources}\";\nDir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::Preferences \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
         Dir::State::Lists \"{lists}\";\nDir::State::Status \"{status}\";\nDir::Cache \"{cache}\";\n",
        sources = at("sources.list"),
        lists = at("lists"),
        status = at("status"),
        cache = at("cache"),
    );
    let path = apt.join("apt.conf");
    fs::write(&path, config)?;
    Ok(path)
}

fn apt_get(stop: &Stop, config: &Path, folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = process::command(Path::new("apt-get"), ["-qq", "--config-file"]);
    command.arg(config).args(arguments).current_dir(folder).stdout(Stdio::null());
    let status = process::run(stop, &mut command)?;
    if !status.success() {
        bail!("apt-get {} failed ({status}); its own words are above", arguments.join(" "));
    }
    Ok(())
}

fn unpack(stop: &Stop, cache: &Path, package: &Path) -> Result<()> {
    let file = package.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // NAME_VERSION_amd64.deb
    let version = file.split('_').nth(1).with_context(|| format!("{file} names no version"))?;
    let (root, unfinished) = (cache.join("unpacked"), cache.join("unfinished"));
    super::remove(&root)?;
    super::remove(&unfinished)?;
    fs::create_dir_all(unfinished.join("modules"))?;
    let mut command = process::command(Path::new("dpkg-deb"), ["-x"]);
    let status = process::run(stop, command.arg(package).arg(&root))?;
    if !status.success() {
        bail!("dpkg-deb cannot unpack {} ({status})", package.display());
    }
    let image = only(&root.join("boot"), "vmlinuz-")?;
    fs::copy(&image, unfinished.join("vmlinuz"))?;
    let release = only(&root.join("usr/lib/modules"), "")?;
    let order = load_order(&MODULES, |name| read_module(&release, name))?;
    for (index, (name, bytes)) in order.iter().enumerate() {
        fs::write(unfinished.join("modules").join(format!("{index:02}-{name}.ko")), bytes)?;
    }
    super::remove(&root)?;
    // Whole, or not there.
    fs::rename(&unfinished, cache.join(format!("{PREFIX}{version}")))
        .context("cannot name the kernel's folder")
}

fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let mut found = entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => bail!("the kernel's package has not one {prefix}* in {}", folder.display()),
    }
}

/// The module's bytes, decompressed; None if it is built into the kernel.
fn read_module(release: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    // Names have underscores; files have either.
    let is_it = |line: &&str| {
        let file = line.rsplit('/').next().unwrap_or_default();
        file.split('.').next().unwrap_or_default().replace('-', "_") == name
    };
    let builtin = fs::read_to_string(release.join("modules.builtin")).context("modules.builtin")?;
    if builtin.lines().any(|line| is_it(&line)) {
        return Ok(None);
    }
    let order = fs::read_to_string(release.join("modules.order")).context("modules.order")?;
    let line = order.lines().find(is_it).with_context(|| format!("the kernel has no module {name}"))?;
    let plain = line.strip_suffix(".xz").unwrap_or(line);
    let path = release.join(format!("{plain}.xz"));
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(&path).output();
    let output = output.context("cannot run xz")?;
    if !output.status.success() {
        bail!("{} is not xz: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(Some(output.stdout))
}

/// `wanted` and all that they depend on, each after what it depends on. `read` gives a module's bytes.
fn load_order(
    wanted: &[&str],
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>>,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut order: Vec<(String, Vec<u8>)> = Vec::new();
    for name in wanted {
        visit(name, &mut Vec::new(), &mut order, &mut read)?;
    }
    Ok(order)
}

fn visit(
    name: &str,
    above: &mut Vec<String>,
    order: &mut Vec<(String, Vec<u8>)>,
    read: &mut impl FnMut(&str) -> Result<Option<Vec<u8>>>,
) -> Result<()> {
    if order.iter().any(|(loaded, _)| loaded == name) {
        return Ok(());
    }
    if above.iter().any(|other| other == name) {
        bail!("modules depend on each other in a ring: {}, {name}", above.join(", "));
    }
    let Some(bytes) = read(name)? else { return Ok(()) };
    above.push(name.to_owned());
    for needed in depends(&bytes) {
        visit(&needed, above, order, read)?;
    }
    above.pop();
    order.push((name.to_owned(), bytes));
    Ok(())
}

/// What the module says of itself (`depends=a,b` in its section .modinfo, a list of NUL-terminated strings). The file that depmod
/// makes of it is not in the package. Soft dependencies are hints, and those of ours are built in.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"depends=";
    let starts = (0..module.len().saturating_sub(key.len()))
        .filter(|at| module[*at..].starts_with(key) && (*at == 0 || module[at - 1] == 0));
    let value = starts.map(|at| module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default());
    let list = value.into_iter().next().map(|value| String::from_utf8_lossy(value).into_owned());
    let list = list.unwrap_or_default();
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF not depends=wrong\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    /// A kernel of these modules; whatever it has not is built in.
    fn order(kernel: &[(&str, &str)], wanted: &[&str]) -> Result<Vec<String>> {
        let read = |name: &str| Ok(kernel.iter().find(|(known, _)| *known == name).map(|(_, on)| module(on)));
        Ok(load_order(wanted, read)?.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn a_module_comes_after_all_that_it_depends_on_and_once() {
        let kernel = [
            ("virtio_net", "net-failover"),
            ("net_failover", "failover"),
            ("failover", ""),
            ("xfs", "libcrc32c,failover"),
            ("libcrc32c", ""),
        ];
        let all = order(&kernel, &["virtio_pci", "virtio_net", "xfs"]).unwrap();
        assert_eq!(all, ["failover", "net_failover", "virtio_net", "libcrc32c", "xfs"]);
    }

    #[test]
    fn a_ring_of_modules_ends_with_its_names() {
        let error = order(&[("a", "b"), ("b", "a")], &["a"]).unwrap_err().to_string();
        assert!(error.contains("a, b, a"), "{error}");
    }

    #[test]
    fn the_versioned_package_is_found() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.117+deb13-cloud-amd64\n";
        assert_eq!(versioned(text), Some("linux-image-6.12.117+deb13-cloud-amd64"));
        assert_eq!(versioned("linux-image-cloud-amd64\n"), None);
    }
}
