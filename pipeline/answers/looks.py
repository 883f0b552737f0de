r"""One way of writing: Unicode mathematics becomes TeX, and what changes an answer's looks only is taken off.

`tidy("3⁴ × 10⁻⁵")` is `3^{4} \times 10^{-5}`: a superscript is a power and never a further digit, `4½` is a
mixed number, every dash is a minus, every thin blank between groups of three digits joins them. It judges
nothing; `forms.py` and `compare.py` do. Every function here takes time linear in its text.
"""

from __future__ import annotations

import re
import unicodedata

MAX_TEXT = 20_000  #: characters of an answer or of a completion's end that are looked at

_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙ", "0123456789+-=()n", strict=True))
_VULGAR = {char: unicodedata.normalize("NFKC", char).split("\u2044") for char in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↉"}
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_BLANKS = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_NOTHING = "\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\ufeff\u00ad"
_SIGNS = {
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "∗": "*",
    "÷": r"\div ",
    "⁄": "/",
    "∕": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "⩽": r"\le ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≃": r"\approx ",
    "≅": r"\approx ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "⌀": r"\emptyset ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "˚": r"^\circ ",
    "℃": r"^\circ C",
    "℉": r"^\circ F",
    "ℝ": r"\mathbb{R} ",
    "ℤ": r"\mathbb{Z} ",
    "ℕ": r"\mathbb{N} ",
    "ℚ": r"\mathbb{Q} ",
    "ℂ": r"\mathbb{C} ",
    "∖": r"\setminus ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "…": "...",
    "′": "'",
    "″": "''",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "«": '"',
    "»": '"',
    "\u00b5": r"\mu ",
    "Ω": r"\Omega ",
    "\u2126": r"\Omega ",
    "%": "%",
    "∑": r"\sum ",
    "∫": r"\int ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
}
_GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "phi",
    "ϕ": "phi",
    "ψ": "psi",
    "ω": "omega",
    "η": "eta",
    "κ": "kappa",
    "ξ": "xi",
    "χ": "chi",
    "ν": "nu",
    "ζ": "zeta",
    "Δ": "Delta",
    "Γ": "Gamma",
    "Θ": "Theta",
    "Λ": "Lambda",
    "Σ": "Sigma",
    "Φ": "Phi",
    "Ψ": "Psi",
    "Π": "Pi",
    "Ξ": "Xi",
}
_TABLE = str.maketrans(
    dict.fromkeys(_DASHES, "-")
    | dict.fromkeys(_NOTHING, "")
    | _SIGNS
    | {char: f"\\{name} " for char, name in _GREEK.items()}
    | {char: rf"\frac{{{above}}}{{{below}}}" for char, (above, below) in _VULGAR.items()}
)
_POWERS = re.compile(f"[{re.escape(''.join(_SUPER))}]+")
_INDICES = re.compile(f"[{re.escape(''.join(_SUB))}]+")
#: what money is called before a number (`USD12.50`, `Rs. 500`), and its unit
MONEY = {
    "USD": "dollar", "US$": "dollar", "EUR": "euro", "GBP": "gbp", "JPY": "yen", "CNY": "yuan", "RMB": "yuan",
    "INR": "rupee", "Rs.": "rupee", "Rs": "rupee", "₹": "rupee", "RM": "ringgit", "₩": "won", "₽": "ruble",
    "₱": "peso", "₫": "dong", "₴": "hryvnia", "₦": "naira", "Php": "php", "AU$": "aud", "CA$": "cad",
    "HK$": "hkd", "NZ$": "nzd", "CHF": "chf", "AUD": "aud", "CAD": "cad", "NZD": "nzd", "SGD": "sgd",
    "HKD": "hkd", "MXN": "mxn", "BRL": "brl", "ZAR": "zar", "KRW": "krw", "THB": "thb", "PHP": "php",
}  # fmt: skip
MONEY_NAME = "|".join(re.escape(name) for name in sorted(MONEY, key=len, reverse=True))
_MONEY = re.compile(  # `$AU$ 5` is a line's name
    rf"(?<![A-Za-z\\\d])(?!(?<=\$)[A-Z]{{2}}\$)(?:{MONEY_NAME})\s?(?=[-+]?\.?\d)|(?<=\d)\s?[₹₩₽₱₫₴₦]"
)
#: as India groups digits, `1,00,000`: no list, where money stands at it or a group begins with 0
_LAKHS = re.compile(
    r"(?:(?P<money>Rs\.?|INR|₹)\s?|(?<![\d,.]))\d{1,2}(?:,\d{2})+,\d{3}(?!,?\d)(?P<more>\s?(?:rupees?|Rs|INR|₹))?"
)
#: groups of digits with blanks between: `12 000`; of `100 200` nobody knows, so a group must begin with 0
_SPACED = re.compile(r"(?<![\d,.])(?<!\d )\d{1,3}(?: \d{3})+(?! ?\d)")
_THIN = re.compile(rf"(?<=\d)[{_BLANKS}'’](?=\d{{3}}(?!\d))")  # also as Switzerland groups, `3'500`
_ROOT = re.compile(r"([√∛∜])\s?(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[A-Za-z]|\\pi)|)")
_WIDE = re.compile(" {2,}")
_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}
#: digits in circles, brackets or with a point are labels, and never digits
_LABELS = re.compile("[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793]")

_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textrm|textit|textsf|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname|bold"
    r"|boldsymbol|bf)\s*\{([^{}]*)\}"
)
_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|bf|rm|it)(?![A-Za-z])"
)
_SPACES = re.compile(
    r"(?<!\\)\\(?:[!,;:> ]|q?quad|(?:thinspace|medspace)(?![A-Za-z])|hspace\{[^{}]*\})|(?<!\\)~"
)
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z,;!{}()\[\]])")
_GROUP_SPACE = re.compile(r"(?<=\d)\\[,!; :]\s?(?=\d{3}(?!\d))|(?<=\d)~(?=\d{3}(?!\d))")
_COMMA = re.compile(r"\s?\{\s?,\s?\}|,\\!\s?")
_INLINE = re.compile(r"\$([^$]*[^\s$])\$(?=\s*[A-Za-z%\\])")
_THOUGHTS = ("think", "thinking", "thought", "reasoning")
_FENCES = (("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"), ("`", "`"), ('"', '"'))


def ending(text: str) -> str:
    """The part of a completion that may hold its answer: its last `MAX_TEXT` characters after the last closed
    thought, up to the next one. A thought that never ends has no answer.
    """
    if "<" in text:
        low = text.lower()
        if any(f"{tag}>" in low for tag in _THOUGHTS):
            ends = [at + len(tag) + 3 for tag in _THOUGHTS if (at := low.rfind(f"</{tag}>")) >= 0]
            start = max(ends, default=0)
            begins = [at for tag in _THOUGHTS if (at := low.find(f"<{tag}>", start)) >= 0]
            text = text[start : min(begins, default=len(text))]
    return text[-MAX_TEXT:]


def tidy(text: str) -> str:
    """The same answer with Unicode's mathematics written as TeX, and groups of digits that no comma of
    English tells (India's, Switzerland's, and blanks) joined."""
    text = _THIN.sub(r"\\,", _SPACED.sub(_joined, _LAKHS.sub(_joined, text)))
    if text.isascii():
        return text
    text = _POWERS.sub(lambda found: f"^{{{''.join(_SUPER[c] for c in found[0])}}}", text)
    text = _INDICES.sub(lambda found: f"_{{{''.join(_SUB[c] for c in found[0])}}}", text)
    text = _ROOT.sub(
        lambda found: rf"\sqrt{_INDEX[found[1]]}{{{found[2] or found[3] or found[4] or ''}}}", text
    )
    text = _WIDE.sub(" ", text.translate(_TABLE))
    if text.isascii():
        return text
    kept: list[str] = []
    end = 0
    for label in _LABELS.finditer(text):
        kept += [unicodedata.normalize("NFKC", text[end : label.start()]), label[0]]
        end = label.end()
    return "".join(kept) + unicodedata.normalize("NFKC", text[end:])


def _joined(found: re.Match[str]) -> str:
    known = found.groupdict()
    sure = known.get("money") or known.get("more") or re.search("[, ]0", found[0])
    return re.sub(r"(?<=\d)[, ](?=\d)", "", found[0]) if sure else found[0]


def unpriced(text: str) -> str:
    """A text whose numbers alone count: what money is called at them is a dollar before, a blank behind."""
    return _MONEY.sub(lambda found: " " if text[found.start() - 1 : found.start()].isdigit() else r"\$", text)


def unfence(text: str) -> str:
    """Without the dollars, stars or quotation marks that stand around all of it, and a closing dot."""
    for _ in range(len(_FENCES) + 1):
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for start, end in _FENCES:
            if (
                text.startswith(start)
                and text.endswith(end)
                and len(text) > len(start) + len(end)
                and text.find(start, len(start)) in (-1, len(text) - len(end))
            ):
                text = text[len(start) : -len(end)]
        if text == before:
            break
    if text.startswith("$"):
        text = _INLINE.sub(r"\1 ", text)
    if text.endswith(("*", "`")):
        text = text.rstrip("*`").rstrip()
    return text.lstrip("*`").lstrip() if text.startswith(("**", "`")) else text


def undress(text: str) -> str:
    r"""Without `\left`, spacing commands and the like; a comma or thin space between digits joins them."""
    if "\\" not in text and "~" not in text and "{" not in text:
        return text
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)  # a program's way of writing one backslash
    text = _COMMA.sub(",", text)
    text = _GROUP_SPACE.sub("", text)
    text = _SIZES.sub("", text)
    text = _SPACES.sub(" ", text).replace("\\\n", " ")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")


def untext(text: str, around: str = "") -> str:
    r"""`\text{...}` and its kin replaced by what they hold, with `around` on both sides."""
    if "\\" not in text:
        return text
    return _TEXT_COMMAND.sub(lambda found: around + found[1].strip() + around if around else found[1], text)


def plain(text: str) -> str:
    r"""An answer as an exact comparison sees it: without dollars, `\left`, spacing commands, `\text{}`,
    closing dots and blanks (but for those between two words or two numbers).
    """
    text = untext(undress(unfence(tidy(text[:MAX_TEXT]))))
    if " " in text or "\n" in text or "\t" in text:
        text = " ".join(text.split())
        text = re.sub(r"(?<![A-Za-z0-9.]) | (?![A-Za-z0-9.])", "", text)
        text = re.sub(r"(?<=[0-9.]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9.])", "", text)
    return text.removesuffix(".")
