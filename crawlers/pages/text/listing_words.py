"""Names and phrases of the parts of a category page, in many languages."""

import re

BOX_NAMES = re.compile(  # classes and ids of promotion boxes beside a listing
    r"featured|best-?sell|whats-?new|new-?(?:products|arrivals)|(?:^|[\s_-])(?:latest|specials?|promo\w*|popular|"
    r"trending|recommend\w*|random|deals?|spotlight|widgets?|banners?|teasers?|hero|news|blog|articles?|posts?|"
    r"side-?box\w*|box-?(?:content|heading)|slideshow|carousel|slider|swiper|slick|owl(?:-\w+)?|mini-?cart|instagram|"
    r"brands?|manufacturers?|related|upsells?|cross-?sells?|similar|viewed)(?=$|[\s_-])",
    re.IGNORECASE,
)
SIDES = re.compile(
    r"(?:^|\s)(?:left|right|column-?(?:left|right)|(?:left|right)-?(?:col\w*|bar|side\w*)|nav-?column\w*|"
    r"side-?bar\w*|side-?nav\w*|\w+-sidebar)(?=$|\s)",
    re.IGNORECASE,
)
LISTING_NAMES = re.compile(
    r"(?:products?|items?|category|catalog(?:ue)?|search)[-_]?(?:list|listing|grid|results?|items|wrapper|products)|"
    r"(?:^|[\s_-])(?:products|listing|results|catalog|collection)(?=$|[\s_-])",
    re.IGNORECASE,
)
SORT_NAMES = re.compile(r"sort|order-?by|per-?page|limit", re.IGNORECASE)
COUNT_RANGE = re.compile(  # "Showing 1 to 12 of 40": first, last, total
    r"(?<!\d)(\d{1,5})\s*(?:-|–|—|~|to|bis|à|a|al|do|до|tot|til|till|through|au|hasta|até)\s*(\d{1,5})"
    r"\s*\W{0,3}(?:of|von|sur|de|di|из|z|van|av|af|ud af|out of|från|/|su|do|od|din|з|on|total)\W{0,3}\s*"
    r"(?:\w{1,12}\s+)?(\d{1,7})",
    re.IGNORECASE,
)
COUNT_OF = re.compile(  # "12 products"
    r"\(?(\d{1,5})\s+(?:products?|items?|results?|artikel|produkte?|produits?|articles?|productos?|artículos?|produtos?|"
    r"prodotti|prodotto|articoli|"
    r"producten|produkter|varor|varer|tuotetta|produkt(?:y|ů|ów|ov)?|товар\w*|termék|件)\)?",
    re.IGNORECASE,
)
BOX_HEADINGS = re.compile(  # headings of boxes with promoted or related products
    r"\bfeatured\b|\bbest ?sell|what['’]?s new|\bnew (?:products|arrivals|in)\b|\blatest\b|\bspecials?\b|recommended|"
    r"\byou (?:may|might|could|will)\b|\balso (?:like|bought|viewed)|\bcustomers who|\brelated|\bsimilar|"
    r"recently viewed|\bpopular\b|\btrending|\btop (?:sell|rated|products|picks)|\bdeals?\b|"
    r"\b(?:our|staff|editor.?s) picks|"
    r"just for you|inspired by|more to (?:love|explore)|hot (?:products|items)|"
    r"top-?seller|empfehl|empfohlen|neuheiten|neu eingetroffen|angebote|das könnte|"
    r"ähnliche|zuletzt (?:angesehen|gesehen)|"
    r"kunden kauften|beliebt|meilleures? ventes|nouveautés|vous aimerez|aimer aussi|produits? (?:similaires|populaires|"
    r"phares|vedettes)|recommand|vus récemment|destacad|m[aá]s vendid|novedades|novidades|ofertas|relacionad|recomend|"
    r"(?:te|le) puede|vistos reciente|mais vendid|in evidenza|più vendut|novità|offerte|correlat|potrebbe|consigliat|"
    r"aanbevolen|populair|meest verkocht|\bnieuw|aanbieding|laatst bekeken|anderen bekeken|ook interessant|"
    r"polecan|bestseller|nowości|promocj|podobne|ostatnio ogl|nejprodávan|novinky|\bakce\b|doporuč|naposledy|"
    r"legnépszer|ajánl|újdonság|akciós|хит|новинк|рекоменд|популярн|похожие|вы смотрели|вам (?:может|понравится)|"
    r"акци[ия]|скидк|пропозиці|новинки|recomandat|promoții|noutăți|asemănătoare|προτειν|δημοφιλ|νέα προϊόντα|"
    r"おすすめ|人気|新着|新商品|関連|最近チェック|推荐|推薦|热销|熱銷|新品|相关|相關|인기|추천|신상품|관련|최근 본|"
    r"مميزة|ذات صلة|الأكثر مبيع|وصل حديث|öne çıkan|çok satan|yeni ürün|benzer|ilginizi|populära|bästsäljare|nyheter|"
    r"rekommender|liknande|anbefal|nyheder|bestselger|mest solgte|suosit|uutuudet|gợi ý|bán chạy|terlaris|"
    r"rekomendasi|แนะนำ|ขายดี",
    re.IGNORECASE,
)
NOTHING_FOUND = re.compile(  # texts of an empty category
    r"\b(?:no|0|zero) (?:products?|items?|results?|matches)\b|there are (?:currently )?no\b|nothing found|"
    r"keine (?:artikel|produkte|ergebnisse)|aucun (?:produit|article|résultat)|no hay (?:productos|artículos)|"
    r"no se (?:han )?encontr|nenhum (?:produto|resultado)|nessun (?:prodotto|articolo|risultato)|"
    r"geen (?:producten|artikelen)|"
    r"brak (?:produktów|towarów|wyników)|žádné (?:produkty|zboží)|nincs(?:enek)? termék|нет товаров|"
    r"товар(?:ов|ы) не найден|inga (?:produkter|varor)|ingen (?:produkter|varer)|ei tuotteita|ürün bulun|niciun produs|"
    r"該当する商品|商品がありません|没有(?:找到)?商品|沒有商品|상품이 없|لا توجد منتجات",
    re.IGNORECASE,
)
