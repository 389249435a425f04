"""Stock phrases of pages, picture agencies and shops, and what is left of a text without them.

A phrase alone rejects nothing: `Empty modern meeting room Royalty Free Stock Photo` still describes a picture. The built-in lists
were written from LAION and Conceptual Captions texts; they are English, with a few agency words of other languages.
"""

import re
from collections.abc import Sequence

from capfilt.config.screen import BoilerplateList

_MEDIUM = (
    r"(?:photo(?:graph)?s?|photography|images?|pictures?|pics?|vectors?|illustrations?|(?:video )?footage|videos?|clip ?art|art|"
    r"graphics?)"
)
_SOCIAL = r"(?:facebook|twitter|pinterest|instagram|whatsapp|tumblr|flickr|reddit|linkedin|google\+?|email)"
_CURRENCY = r"(?:us ?\$|[$€£¥₹])"
_AMOUNT = r"\d[\d.,]{0,12}"

LISTS: dict[BoilerplateList, tuple[str, ...]] = {
    "page": (
        r"image may contain\b.*",  # a machine's list of tags follows, not a description
        r"click (?:here|on (?:the|this|image|photo|picture)|to|for|this)\b(?: (?:to )?(?:see|view|enlarge|zoom|read|return|print|"
        r"open|save|buy|download|redeem|play|larger?|full|size|sized?|image|photo|picture|version|more|info|information|a|an|the|"
        r"here|home|about|for))*",
        r"view (?:larger|full|bigger|original)(?:[ -]size[d]?)?(?: (?:image|photo|picture))?",
        r"(?:larger|full[ -]size[d]?|enlarged?) (?:image|view|version)(?: of)?",
        r"load image into gallery viewer",
        r"(?:image|photo|picture|page|video) (?:is )?loading|loading(?: image)?\.{2,}",
        r"(?:no|missing) (?:image|photo|picture|thumbnail|preview|poster)s?(?: (?:yet|found|available|provided|uploaded))?",
        r"(?:image|photo|picture|preview)s? (?:(?:is|are) )?(?:not (?:available|found|provided)|unavailable|missing|removed)",
        r"(?:image|photo|picture|cover)s? coming soon",
        r"embedded image(?: permalink)?",
        r"(?:google )?image results? for|img for|thumbnail(?: of| for)?|placeholder(?: image)?",
        r"(?:product|featured|cover|header|hero|banner|profile|main|gallery|preview|article|post) (?:image|photo|picture|pic)",
        rf"(?:share|pin|follow(?: us)?|find us|like us|tweet|join us) (?:this |it )?(?:on|to|via|by) {_SOCIAL}",
        r"follow us|share this|tweet this|pin it|subscribe(?: now| to)?|sign up|log ?in|register now",
        r"(?:read|learn|see|show|load|view) more|continue reading|find out more|more info(?:rmation)?|download now",
        r"skip to (?:main )?content|back to top|go to top|previous (?:image|slide|post)|next (?:image|slide|post)|scroll down",
        r"advertisements?|sponsored|all rights reserved|copyright|cookie policy|privacy policy|terms of use",
        r"powered by \w+|enable javascript|javascript (?:is )?disabled",
        r"(?:image|photo|picture|slide|figure|page|video) \d{1,4}(?: of \d{1,4})?|\d{1,4} of \d{1,4}",
        rf"on {_SOCIAL}|by email",
    ),
    "stock": (
        rf"(?:free )?royalty[- ]free(?: stock)?(?: {_MEDIUM})?(?: of| for)?",
        rf"(?:free )?stock {_MEDIUM}(?: of| for)?",
        rf"(?:free )?(?:vector|editorial|premium|public domain|clip ?art|clipart|digital) {_MEDIUM}",
        rf"free {_MEDIUM}|free (?:hd |high[- ]res(?:olution)? )?downloads?|for free|hd wallpapers?|wallpapers? and backgrounds?",
        r"(?:getty|shutterstock|i ?stock(?: ?photo)?|alamy|dreamstime|deposit ?photos?|123 ?rf|adobe stock|big ?stock|fotolia|"
        r"corbis|ap photos?|reuters|photodune|pond5|vectorstock|can stock photo)(?: images?)?",
        r"foto (?:de )?stock|fotos? de stock|stock ?foto|photos? libres? de droits|lizenzfreie (?:stock)?(?:fotos?|bilder)|"
        r"стоковое фото|стоковая фотография",
        rf"pictures? (?:&|and) photos?|photos? (?:&|and) (?:pictures|images|videos)|stock videos? (?:&|and) {_MEDIUM}",
        r"\d+ credits?",
    ),
    "shop": (
        rf"{_CURRENCY} ?{_AMOUNT}(?: ?(?:usd|eur|gbp|cad|aud))?|{_AMOUNT} ?(?:usd|eur|gbp|cad|aud|euros?|dollars?)",
        r"\d{1,3} ?% ?off|save \d{1,3} ?%|up to \d{1,3} ?% off|(?:huge|big|best) (?:sale|discounts?|savings)",
        r"free (?:(?:us|u\.s\.|uk|worldwide|international|fast) )?(?:shipping|delivery|returns)|fast (?:shipping|delivery)",
        r"(?:for|on|hot|clearance|final) sale|sale price|best (?:price|seller|online sale)s?|(?:low|lowest|cheap) prices?|"
        r"(?:retail |our |unit )?price:?|rrp|msrp|discounts?|coupons?(?: codes?)?|promo(?:tion)? codes?|special offers?|deals?",
        r"(?:add|added) to (?:cart|basket|bag|wish ?list)|(?:buy|order|shop|pre-?order) (?:now|here|online|today)|buy|"
        r"(?:available )?online at|shop|quick view|(?:in|out of|limited) stock|sold out|new arrivals?|wholesale|dropshipping",
        r"from china(?: suppliers?| mainland)?|suppliers|manufacturers",
        r"sizes? ?:? ?(?:x{0,3}[sl]|m|\d{1,2})(?:[ ,/\-]+(?:x{0,3}[sl]|m|\d{1,2}))*|one size",
        r"(?:sku|item|model|part|art(?:icle)?|mpn|ref|listing ?id)(?: ?(?:no|number|code|id))?\.? ?[:#] ?\S+",
        r"(?:https?://|www\.)\S+|[\w\-]{1,63}\.(?:com|net|org|co\.uk|shop|store)\b(?:/\S*)?",
    ),
}


class Boilerplate:
    """Finds the caller's own `phrases` first, then those of `lists`, in that order."""

    def __init__(self, lists: Sequence[BoilerplateList], phrases: Sequence[str], min_words_left: int) -> None:
        self._least = min_words_left
        own = [r"\s+".join(map(re.escape, phrase.casefold().split())) for phrase in phrases]
        built_in = [(str(name), [f"(?:{part})" for part in LISTS[name]]) for name in lists]
        named = [("phrases", own), *built_in] if own else built_in
        self._patterns = [(name, _whole_words(parts)) for name, parts in named]

    def found(self, text: str) -> str | None:
        """The first list with a phrase in the text, where all lists leave fewer than `min_words_left` words; None otherwise."""
        left = " ".join(text.replace("’", "'").casefold().split())
        first = None
        for name, pattern in self._patterns:
            left, number = pattern.subn(" ", left)
            if number and first is None:
                first = name
        if first is None:
            return None
        return first if len(_WORD.findall(left)) < self._least else None


_WORD = re.compile(r"[^\W\d_]{2,}")


# Every repeat that can start anywhere in a text is bounded, above too: a hostile text of a megabyte takes a second, not hours.
def _whole_words(parts: Sequence[str]) -> re.Pattern[str]:
    """Any of the parts, not inside a word."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")
