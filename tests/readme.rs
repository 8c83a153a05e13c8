//! The README's list of settings is the table the broker works with.

use std::fs;
use std::path::Path;

use ringspun::base::settings;

const BEGIN: &str = "<!-- settings -->\n";
const END: &str = "<!-- end of settings -->\n";

#[test]
fn the_readme_lists_the_settings_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("a README");
    let (before, rest) = readme.split_once(BEGIN).expect("the mark before the list");
    let (_, after) = rest.split_once(END).expect("the mark after the list");
    let expected = format!("{before}{BEGIN}{}{END}{after}", settings::markdown());
    if std::env::var_os("RINGSPUN_UPDATE_README").is_some() {
        fs::write(&path, expected).expect("a writable README");
    } else {
        assert!(
            readme == expected,
            "the list is out of date: RINGSPUN_UPDATE_README=1 cargo test --test readme"
        );
    }
}
