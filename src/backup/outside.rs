//! Files outside of the data directory that a backup does not contain: those that settings name, and
//! the directory of the WAL.

use crate::error::{Error, Kind};
use crate::fs::named;
use crate::progress;
use crate::repo::record::{OutsideFile, Settings};
use std::path::Path;

/// Settings that name files or directories with content, each with the setting that has to be `on`
/// for it to be used. Configuration files are backed up wherever they lie.
const NAMING: [(&str, Option<&str>); 7] = [
    ("ssl_cert_file", Some("ssl")),
    ("ssl_key_file", Some("ssl")),
    ("ssl_ca_file", Some("ssl")),
    ("ssl_crl_file", Some("ssl")),
    ("ssl_crl_dir", Some("ssl")),
    ("ssl_dh_params_file", Some("ssl")),
    ("krb_server_keyfile", None),
];

/// Settings with lists of libraries or directories of libraries, and their separators.
const LIBRARIES: [(&str, char); 5] = [
    ("shared_preload_libraries", ','),
    ("session_preload_libraries", ','),
    ("local_preload_libraries", ','),
    ("dynamic_library_path", ':'),
    ("extension_control_path", ':'),
];

/// Settings with directories that only have to exist, and the settings that have to be `on`.
const PLACES: [(&str, Option<&str>); 2] =
    [("log_directory", Some("logging_collector")), ("unix_socket_directories", None)];

/// Returns the existing files outside of the data directory that settings name. `value` returns the
/// value of a setting; `None` for one that the role may not read.
pub(super) fn outside<'v>(
    value: impl Fn(&str) -> Option<&'v str>,
    data_directory: &Path,
) -> Vec<OutsideFile> {
    let real_path = |path: &Path| named::real(path).ok().flatten();
    let real = real_path(data_directory).unwrap_or_else(|| data_directory.to_owned());
    let is_on = |setting: Option<&str>| setting.is_none_or(|setting| value(setting) == Some("on"));
    let naming = NAMING.into_iter().chain(PLACES).filter(|(_, condition)| is_on(*condition));
    // Only the sockets' directories are a list.
    let named = naming.map(|(setting, _)| (setting, ','));
    let mut found = Vec::new();
    for (setting, separator) in named.chain(LIBRARIES) {
        for path in value(setting).unwrap_or("").split(separator) {
            let path = path.trim().trim_matches('"').trim_start_matches("FILE:");
            let place = Path::new(path);
            let is_inside = place.starts_with(data_directory)
                || real_path(place).is_some_and(|place| place.starts_with(&real));
            if place.is_absolute() && !is_inside && matches!(named::stat(place), Ok(Some(_))) {
                found.push(OutsideFile { setting: setting.to_owned(), path: path.to_owned() });
            }
        }
    }
    found
}

/// Returns the target of `pg_wal`, if that is a link.
pub(super) fn wal_directory(data_directory: &Path) -> Option<String> {
    let target = named::link_target(&data_directory.join("pg_wal")).ok()??;
    Some(data_directory.join(target).to_string_lossy().into_owned())
}

/// Warns about files that the backup does not contain, unless the parent was taken with the same
/// ones.
pub(super) fn warn(settings: &Settings, parent: Option<&Settings>) {
    let is_content = |file: &&OutsideFile| NAMING.iter().any(|(setting, _)| *setting == file.setting);
    let of = |settings: &Settings| -> Vec<OutsideFile> {
        settings.outside.iter().filter(is_content).cloned().collect()
    };
    let files = of(settings);
    if files.is_empty() || parent.map(of).is_some_and(|before| before == files) {
        return;
    }
    let names: Vec<String> = files.iter().map(|file| format!("{} ({})", file.path, file.setting)).collect();
    let what = format!("files outside of the data directory are not in the backup: {}", names.join(", "));
    progress::warn(
        &Error::new(Kind::Problem, what).hint("a restored server needs them: back them up with the host"),
    );
}
