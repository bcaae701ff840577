"""Languages of the multilingual models, as ISO 639-1; languages that have no such code are left out."""

from __future__ import annotations


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ENGLISH = ("en",)
CHINESE = ("zh",)

# XLM-R's (MTEB, facebookai.py); the cards of the models built on it say "100 languages"
XLM_R = _codes(
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he "
    "hi hr hu hy id is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl nb om "
    "or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi zh"
)
# the cards of paraphrase-multilingual-MiniLM-L12-v2 and -mpnet-base-v2
PARAPHRASE = _codes(
    "ar bg ca cs da de el en es et fa fi fr gl gu he hi hr hu hy id it ja ka ko ku lt lv mk mn mr "
    "ms my nb nl pl pt ro ru sk sl sq sr sv th tr uk ur vi zh"
)
# the card of LaBSE
LABSE = _codes(
    "af am ar as az be bg bn bo bs ca co cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha "
    "he hi hr ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms "
    "mt my ne nl no ny or pa pl pt ro ru rw si sk sl sm sn so sq sr st su sv sw ta te tg th tk tl "
    "tr tt ug uk ur uz vi wo xh yi yo zh zu"
)
# the cards of snowflake-arctic-embed-l-v2.0 and -m-v2.0
ARCTIC = _codes(
    "af ar az be bg bn ca cs cy da de el en es et eu fa fi fr gl gu he hi hr ht hu hy id is it ja "
    "jv ka kk km kn ko ky lo lt lv mk ml mn mr ms my ne nl pa pl pt qu ro ru si sk sl so sq sr sv "
    "sw ta te th tl tr uk ur vi yo zh"
)
# MTEB, gte_models.py and qwen3_models.py; Qwen3's card says "100+ languages"
GTE = QWEN3 = _codes(
    "af ar az be bg bn ca cs cy da de el en es et eu fa fi fr gl gu he hi hr ht hu hy id is it ja "
    "jv ka kk km kn ko ky lo lt lv mk ml mn mr ms my nb ne nl nn no pa pl pt qu ro ru si sk sl sw "
    "ta te th tl tr uk ur vi yo zh"
)
# those it was evaluated in (MTEB, google_embeddinggemma.py); its card says "over 100 languages"
EMBEDDING_GEMMA = _codes("ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh")
# MTEB, ibm_granite_models.py
GRANITE = _codes("ar cs de en es fr it ja ko nl pt zh")
GRANITE_R2 = _codes(
    "ar az bg bn ca cs da de el en es et fa fi fr he hi hr hu id is it ja ka kk km ko lt lv mr ms "
    "nl no pl pt ro ru sk sl sq sr sv sw te th tl tr uk ur uz vi zh"
)
