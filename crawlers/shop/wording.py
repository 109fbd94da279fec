"""Texts of the demo shops: taxonomy, and the parts of titles and details.

Brands are invented. Several texts contain characters that HTML, JSON or URLs must escape.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One of Fashion-MNIST's ten classes."""

    taxonomy: tuple[str, str, str]  # label
    slug: str  # part of a category page's URL
    breadcrumb: tuple[str, ...]  # category names of the shops
    nouns: tuple[str, ...]


# In the order of Fashion-MNIST's labels, 0 to 9.
KINDS = (
    Kind(("Clothing", "Tops", "T-shirt"), "t-shirts", ("Fashion", "T-Shirts & Tops"), ("T-Shirt", "Tee", "Top")),
    Kind(("Clothing", "Bottoms", "Trousers"), "trousers", ("Fashion", "Trousers"), ("Trousers", "Chinos", "Slacks")),
    Kind(("Clothing", "Tops", "Pullover"), "pullovers", ("Fashion", "Knitwear"), ("Pullover", "Sweater", "Jumper")),
    Kind(("Clothing", "Full body", "Dress"), "dresses", ("Fashion", "Dresses"), ("Dress", "Robe d'été", "Shift Dress")),
    Kind(("Clothing", "Outerwear", "Coat"), "coats", ("Fashion", "Coats & Jackets"), ("Coat", "Parka", "Überzieher")),
    Kind(("Footwear", "Shoes", "Sandal"), "sandals", ("Shoes", "Summer", "Sandals"), ("Sandals", "Slides", "Mules")),
    Kind(("Clothing", "Tops", "Shirt"), "shirts", ("Fashion", "Shirts & Blouses"), ("Shirt", "Blouse", "Button-Down")),
    Kind(("Footwear", "Shoes", "Sneaker"), "sneakers", ("Shoes", "Sneakers"), ("Sneakers", "Trainers", "Low-Tops")),
    Kind(("Accessories", "Bags", "Handbag"), "bags", ("Bags & More",), ("Handbag", "Tote", "Shoulder Bag")),
    Kind(("Footwear", "Boots", "Ankle boot"), "ankle-boots", ("Shoes", "Boots"), ("Ankle Boots", "Chelsea Boots")),
)

BRANDS = (
    "Nordlys",
    "Müller & Söhne",
    "O'Hara",
    "Less<More",
    'Studio "Nine"',
    "Çınar",
    "Très Bien",
    "Plain Co.",
    "Blåtind",
    "R&R",
    "山田",
    "Harbour 12",
)
STYLES = ("Classic", "Slim", "Relaxed", "Two-Tone", "Café", "Soft-Touch", "50/50", "Weekend", "Éclair", "Basic")
MATERIALS = {
    "Fashion": ("Cotton", "Linen", "Wool & silk", "100 % cotton", "Viscose < 30 %"),
    "Shoes": ("Leather", "Suede", "Canvas", "Rubber & mesh"),
    "Bags & More": ("Leather", "Canvas", 'Nylon "R-1"', "Felt"),
}
CARE = ("Wash at 30°", "Hand wash", "Dry clean only", "Wipe with a damp cloth")
COLOURS = ("Grey", "Anthracite", "Gris clair", "Weiß", "Stone & sand")
