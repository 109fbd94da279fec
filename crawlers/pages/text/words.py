"""Words of links, breadcrumbs and URL parameters, in many languages, in lower case."""

import re

NEXT = {  # texts of links to the next page of a listing
    "next", "next page", "older", "older posts", "show more", "load more", "view more",
    "more products", "nächste", "nächste seite", "weiter", "vor", "vorwärts", "mehr anzeigen",
    "mehr laden", "suivant", "suivante", "page suivante", "voir plus", "afficher plus",
    "siguiente", "página siguiente", "siguiente página", "ver más", "cargar más", "próximo",
    "próxima", "próxima página", "seguinte", "página seguinte", "ver mais", "carregar mais",
    "successivo", "successiva", "prossimo", "prossima", "avanti", "pagina successiva",
    "mostra altri", "volgende", "volgende pagina", "meer laden", "næste", "næste side", "neste",
    "neste side", "nästa", "nästa sida", "seuraava", "seuraava sivu", "następna", "następny",
    "następna strona", "dalej", "další", "další stránka", "ďalej", "ďalšia", "nasledujúca",
    "következő", "tovább", "următoarea", "următorul", "înainte", "следваща", "напред",
    "sonraki", "sonraki sayfa", "ileri", "следующая", "следующая страница", "далее", "вперёд",
    "вперед", "показать ещё", "наступна", "далі", "επόμενη", "επόμενο", "следећа", "sljedeća",
    "naslednja", "järgmine", "nākamā", "kitas", "次へ", "次のページ", "次", "下一页", "下一頁", "下页", "다음",
    "다음 페이지", "التالي", "الصفحة التالية", "הבא", "بعدی", "अगला", "अगला पृष्ठ", "berikutnya",
    "selanjutnya", "seterusnya", "tiếp", "trang sau", "tiếp theo", "ถัดไป", "susunod",
}  # fmt: skip
HOME = {  # names of the first breadcrumb
    "home", "homepage", "home page", "start", "startseite", "accueil", "inicio", "início", "página inicial",
    "strona główna", "domů", "domov", "főoldal", "kezdőlap", "acasă", "hem", "hjem", "forside", "etusivu", "főlap",
    "ana sayfa", "anasayfa", "главная", "головна", "начало", "αρχική", "ホーム", "首页", "首頁", "홈", "الرئيسية",
    "الصفحة الرئيسية", "בית", "होम", "beranda", "trang chủ", "main page", "front page", "start page", "hauptseite",
    "zur startseite", "page d'accueil", "page d’accueil", "portada", "principal", "página principal", "inici",
    "hasiera", "capa", "home page it", "pagina iniziale", "pagina principale", "principale", "voorpagina", "thuis",
    "startpagina", "startsida", "startside", "startsiden", "forsiden", "framsida", "heim", "forsíða", "heimasíða",
    "kotisivu", "strona startowa", "úvod", "úvodní stránka", "hlavní stránka", "hlavná stránka", "domovská stránka",
    "domača stran", "naslovna", "naslovnica", "početna", "početna stranica", "početna strana", "почетна",
    "почетна страна", "pagina principală", "prima pagină", "главная страница", "на главную", "домой",
    "головна сторінка", "галоўная", "начална страница", "начало на сайта", "αρχική σελίδα", "πρώτη σελίδα", "pradžia",
    "pagrindinis", "titulinis", "sākums", "sākumlapa", "avaleht", "esileht", "басты бет", "нүүр", "ana səhifə",
    "faqja kryesore", "kreu", "მთავარი", "գլխավոր", "الرئيسيه", "الصفحه الرئيسيه", "البداية", "דף הבית", "עמוד הבית",
    "ראשי", "خانه", "صفحه اصلی", "صفحه نخست", "ہوم", "मुख्य पृष्ठ", "होम पेज", "হোম", "முகப்பு", "హోమ్", "หน้าแรก",
    "หน้าหลัก", "halaman utama", "laman utama", "utama", "tahanan", "trang nhất", "ទំព័រដើម", "ホームページ",
    "トップ", "トップページ", "主页", "主頁", "回首頁", "网站首页", "홈페이지", "메인", "처음",
}  # fmt: skip
BACK_LINKS = re.compile(  # texts of back links before or after the breadcrumbs
    r"^(?:(?:go |return )?back(?: to (?!school).*)?|return to .*|zurück(?: zu[rm]? .*)?|"
    r"retour(?:ner)?(?: (?:à|au|aux|vers) .*)?|"
    r"revenir .*|volver(?: al? .*)?|regresar(?: a .*)?|atrás|voltar(?: (?:para|a|ao|à) .*)?|"
    r"torna(?: (?:a|al|alla|alle|ai|indietro).*)?|indietro|terug(?: naar .*)?|wróć(?: do .*)?|"
    r"powrót(?: do .*)?|zpět(?: na .*)?|"
    r"späť(?: na .*)?|vissza(?: .*)?|înapoi(?: la .*)?|назад(?: .*)?|вернуться(?: .*)?|"
    r"обратно(?: .*)?|повернутися(?: .*)?|"
    r"tillbaka(?: till .*)?|tilbage(?: til .*)?|tilbake(?: til .*)?|takaisin(?: .*)?|geri(?: dön.*)?|natrag(?: na .*)?|"
    r"nazaj(?: na .*)?|nazad(?: na .*)?|πίσω(?: .*)?|επιστροφή(?: .*)?|.{0,20}戻る|返回.{0,20}|"
    r"뒤로.{0,20}|.{0,20}돌아가기|رجوع.*|العودة.*|חזרה.*|بازگشت.*|kembali(?: ke .*)?|quay lại(?: .*)?|กลับ.*)$",
    re.IGNORECASE,
)
PREVIOUS = {  # texts of links to the previous product, among the breadcrumbs
    "previous", "prev", "previous product", "previous item", "vorherige", "vorheriger", "vorheriges",
    "vorheriger artikel", "vorheriges produkt", "précédent", "précédente", "produit précédent", "article précédent",
    "anterior", "producto anterior", "produto anterior", "precedente", "prodotto precedente", "vorige",
    "vorig product", "poprzedni", "poprzedni produkt", "předchozí", "předchozí produkt", "predchádzajúci", "előző",
    "előző termék", "anteriorul", "предыдущий", "предыдущая", "предыдущий товар", "попередній", "föregående",
    "forrige", "edellinen", "önceki", "önceki ürün", "προηγούμενο", "prethodni", "prejšnji", "前へ", "前の商品",
    "上一个", "上一頁", "上一页", "이전", "السابق", "הקודם", "قبلی", "sebelumnya", "trước",
}  # fmt: skip
FOLLOWING = re.compile(  # texts of links to the next product
    r"^(?:next|nächste[rs]?|suivante?|siguiente|próximo|successivo|volgende?|następny|další|ďalší|következő|следующий|"
    r"наступний|nästa|næste|neste|seuraava|sonraki|επόμενο|sljedeći|naslednji|berikutnya|下一个|次の商品)"
    r"(?: (?:product|item|produkt|artikel|produit|article|producto|produto|prodotto|termék|товар|"
    r"ürün|tuote|vare|proizvod))$",
    re.IGNORECASE,
)
PAGE_PARAMETERS = {  # query parameters with the page number
    "page", "p", "pg", "paged", "pageno", "page_no", "pagenumber", "page_number", "pagenum",
    "currentpage", "cur_page", "pageindex", "seite", "pagina", "página", "strona", "sida",
    "side", "sivu", "product-page", "_page",
}  # fmt: skip
SIZE_PARAMETERS = {  # query parameters with the number of products per page
    "pagesize", "page_size", "page-size", "perpage", "per_page", "per-page", "limit", "rpp", "ps", "items_per_page",
    "itemsperpage", "products_per_page", "productsperpage", "product_list_limit", "resultsperpage", "results_per_page",
    "show", "pp",
}  # fmt: skip
EMPTY_VALUES = {  # placeholders for a missing product number or brand
    "n/a", "na", "n.a.", "none", "null", "nil", "-", "--", "0", "default", "undefined", "unknown", "nan", "false",
    "true",     "sku", "test", "tbd", "tba", "no", "not available", "not applicable", "does not apply", "no aplica",
    "unbranded",     "no brand", "nicht zutreffend", "non applicabile", "n.d.", "nd", "k.a.", "keine", "x", "xxx",
    "array", "[object object]",
}  # fmt: skip
