//! Lists of CPUs as the kernel and people write them: `0,2-3`, and masks: `00000000,0000000d`.

use std::fmt::Write as _;

/// No machine has a CPU of this number.
const CPUS_MAX: usize = 1 << 16;

/// `0,2-3` for ascending numbers.
pub fn format(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cpus;
    while let Some((&first, _)) = rest.split_first() {
        let run = rest
            .iter()
            .enumerate()
            .take_while(|&(i, &cpu)| cpu == first + i)
            .count();
        if !text.is_empty() {
            text.push(',');
        }
        let _ = match run {
            1 => write!(text, "{first}"),
            _ => write!(text, "{first}-{}", first + run - 1),
        };
        rest = &rest[run..];
    }
    text
}

/// The numbers of `0,2-3`, ascending; none for an empty text, `None` for what is no list.
pub fn parse(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for item in text.trim().split(',').filter(|item| !item.is_empty()) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// A mask as sysfs takes it: hexadecimal, a comma after every 32 bits.
pub fn format_mask(cpus: &[usize]) -> String {
    let words = cpus.iter().max().map_or(1, |cpu| cpu / 32 + 1);
    let mut mask = vec![0u32; words];
    for cpu in cpus {
        mask[cpu / 32] |= 1 << (cpu % 32);
    }
    let mut words = mask.iter().rev();
    let mut text = format!("{:x}", words.next().copied().unwrap_or(0));
    for word in words {
        let _ = write!(text, ",{word:08x}");
    }
    text
}

/// The CPUs of a mask, ascending; `None` for what is no mask.
pub fn parse_mask(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for (word, text) in text.trim().rsplit(',').enumerate() {
        let bits = u32::from_str_radix(text, 16).ok()?;
        cpus.extend(
            (0..32)
                .filter(|bit| bits >> bit & 1 == 1)
                .map(|bit| word * 32 + bit),
        );
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        assert_eq!(format(&[0, 2, 3, 4, 9]), "0,2-4,9");
        assert_eq!(format(&[]), "");
        assert_eq!(parse("0,2-4,9\n"), Some(vec![0, 2, 3, 4, 9]));
        assert_eq!(parse("3,1-3"), Some(vec![1, 2, 3]));
        assert_eq!(parse(""), Some(vec![]));
        for bad in ["a", "1-", "3-1", "0-99999999999", "(null)"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn masks_are_read_and_written_as_the_kernel_does() {
        assert_eq!(format_mask(&[0, 2, 3]), "d");
        assert_eq!(format_mask(&[0, 33]), "2,00000001");
        assert_eq!(format_mask(&[]), "0");
        assert_eq!(parse_mask("00000002,00000001"), Some(vec![0, 33]));
        assert_eq!(parse_mask("0\n"), Some(vec![]));
        assert_eq!(parse_mask("x"), None);
    }
}
