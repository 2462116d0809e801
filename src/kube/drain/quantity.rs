//! Kubernetes' quantities (k8s.io/apimachinery/pkg/api/resource), as far as
//! requests of pods and capacities of nodes have them.

/// A quantity in thousandths, rounded up: `100m` is 100, `1Gi` is 1024³ · 1000.
/// `None` for what is no quantity, or too large.
pub(super) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c)))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = scale(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // More digits than that are below a thousandth of anything.
    if fraction.len() > 18 || whole.len() > 20 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let negative = whole.starts_with('-');
    let whole = whole.trim_start_matches(['+', '-']);
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let places = 10_i128.checked_pow(fraction.len().try_into().ok()?)?;
    let scaled = digits.checked_mul(1000)?.checked_mul(numerator)?;
    let divisor = places.checked_mul(denominator)?;
    let value = scaled.checked_add(divisor - 1)? / divisor;
    Some(if negative { -value } else { value })
}

/// What a suffix multiplies with and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let decimal = |power: u32| Some((10_i128.pow(power), 1));
    match suffix {
        "" => decimal(0),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            match exponent {
                0..=18 => decimal(exponent.unsigned_abs()),
                -18..0 => Some((1, 10_i128.pow(exponent.unsigned_abs()))),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_means_them() {
        for (text, expected) in [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("0.1", Some(100)),
            ("1.5", Some(1500)),
            ("1e3", Some(1_000_000)),
            ("5E-1", Some(500)),
            ("128Mi", Some(128 * 1024 * 1024 * 1000)),
            ("1G", Some(1_000_000_000_000)),
            ("1n", Some(1)),
            ("0", Some(0)),
            ("", None),
            (".", None),
            ("x", None),
            ("1Zi", None),
            ("99999999999999999999999", None),
            ("1e999", None),
            ("1--2", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
    }
}
