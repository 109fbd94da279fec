"""Words that shops use, in many languages, lower case. Knows nothing of where on a page they stand."""

NEXT = {  # the link to the next page of a listing
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
HOME = {  # what the first entry of a trail of categories is called
    "home", "homepage", "home page", "start", "startseite", "accueil", "inicio", "início",
    "página inicial", "strona główna", "domů", "domov", "főoldal", "kezdőlap", "acasă", "hem",
    "hjem", "forside", "etusivu", "főlap", "ana sayfa", "anasayfa", "главная", "головна",
    "начало", "αρχική", "ホーム", "首页", "首頁", "홈", "الرئيسية", "الصفحة الرئيسية", "בית", "होम",
    "beranda",
    "trang chủ",
}  # fmt: skip
PAGE_PARAMETERS = {  # of a query, that count pages
    "page", "p", "pg", "paged", "pageno", "page_no", "pagenumber", "page_number", "pagenum",
    "currentpage", "cur_page", "pageindex", "seite", "pagina", "página", "strona", "sida",
    "side", "sivu", "product-page", "_page",
}  # fmt: skip
NO_NUMBER = {  # what shops call a product without a number, or without a brand
    "n/a", "na", "n.a.", "none", "null", "nil", "-", "--", "0", "default", "undefined", "unknown", "nan", "false",
    "true",     "sku", "test", "tbd", "tba", "no", "not available", "not applicable", "does not apply", "no aplica",
    "unbranded",     "no brand", "nicht zutreffend", "non applicabile", "n.d.", "nd", "k.a.", "keine", "x", "xxx",
    "array", "[object object]",
}  # fmt: skip
