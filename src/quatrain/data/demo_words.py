"""The word lists of the embedded questions, and the rules that inflect them.

Spelling is the traditional one throughout (vingt et un, deux cents, fraîche, août). Only words
that the rules below inflect rightly are listed. Not for wording questions (data/demo_phrasings.py).
"""

from __future__ import annotations

ER_VERBS = (
    "chanter parler danser marcher jouer aimer regarder écouter donner trouver penser rester "
    "montrer demander porter passer travailler tomber entrer arriver habiter dessiner laver fermer "
    "gagner compter rêver pousser tirer visiter préparer raconter traverser sauter quitter "
    "utiliser monter casser couper garder chercher inviter cuisiner pleurer brûler brosser coller "
    "réparer décorer pêcher respirer oublier étudier crier skier saluer rouler planter tourner "
    "voler siffler gratter mériter bricoler observer imaginer admirer"
)
IR_VERBS = (
    "finir choisir grandir réussir obéir rougir remplir bâtir punir nourrir grossir maigrir guérir "
    "ralentir applaudir réfléchir saisir réunir fleurir vieillir rajeunir jaunir blanchir agir "
    "avertir définir démolir élargir établir franchir polir salir trahir unir atterrir"
)
PRONOUNS = ("je", "tu", "il", "elle", "nous", "vous", "ils", "elles")
ER_ENDINGS = ("e", "es", "e", "e", "ons", "ez", "ent", "ent")
IR_ENDINGS = ("is", "is", "it", "it", "issons", "issez", "issent", "issent")

FEMININE_NOUNS = (
    "maison table fleur voiture école ville porte fenêtre chaise sœur pomme poire orange tomate "
    "carotte rue forêt montagne rivière étoile lune robe souris noix croix voix fois main tête "
    "jambe plume feuille lettre image histoire chanson dent"
)
MASCULINE_NOUNS = (
    "chat chien livre arbre jardin crayon stylo cahier ami frère pont village nuage lit pied clou "
    "trou cou sou verrou kangourou bijou caillou chou genou hibou joujou pou bateau gâteau cadeau "
    "oiseau château chapeau manteau tableau couteau drapeau rideau marteau anneau agneau morceau "
    "bureau plateau troupeau ruisseau roseau cerveau panneau carreau tonneau tuyau noyau joyau jeu "
    "feu cheveu lieu neveu vœu aveu enjeu pneu landau cheval journal animal hôpital canal bocal "
    "général cristal métal signal tribunal minéral végétal amiral maréchal caporal total rival bal "
    "carnaval festival chacal récital régal travail corail vitrail émail soupirail détail rail "
    "éventail portail chandail épouvantail gouvernail bras nez gaz prix choix bois mois pays repas "
    "tapis dos corps ours poids palais autobus puits jus avis œil train avion lion tigre mouton"
)
IRREGULAR_PLURALS = (
    {"œil": "yeux", "pneu": "pneus", "landau": "landaus"}
    | {noun: noun + "x" for noun in "bijou caillou chou genou hibou joujou pou".split()}
    | {noun: noun + "s" for noun in "bal carnaval festival chacal récital régal".split()}
    | {noun: noun[:-2] + "ux" for noun in "travail corail vitrail émail soupirail".split()}
)

ADJECTIVES = (
    "grand petit joli vert noir bleu lourd froid chaud court haut fort rond pointu content "
    "charmant élégant intelligent poli têtu vrai brun gris blond patient prudent méchant savant "
    "carré salé sucré fatigué génial original royal plat parfait lent rouge jaune jeune triste "
    "calme facile rapide large simple utile tranquille pauvre riche propre sale drôle timide "
    "honnête fidèle heureux sérieux curieux courageux généreux joyeux dangereux précieux peureux "
    "nombreux délicieux merveilleux furieux paresseux nerveux actif vif sportif naïf attentif neuf "
    "pensif négatif positif agressif créatif cher léger premier dernier fier entier étranger "
    "familier régulier amer naturel cruel réel éternel mortel personnel pareil gentil ancien "
    "italien parisien moyen européen canadien bon mignon breton net muet violet complet inquiet "
    "discret secret concret bas gros gras épais beau nouveau vieux fou mou blanc franc sec frais "
    "doux roux faux jaloux long public grec turc favori travailleur menteur rieur protecteur"
)
IRREGULAR_FEMININES = {
    "complet": "complète", "inquiet": "inquiète", "discret": "discrète", "secret": "secrète",
    "concret": "concrète", "bas": "basse", "gros": "grosse", "gras": "grasse", "épais": "épaisse",
    "beau": "belle", "nouveau": "nouvelle", "vieux": "vieille", "fou": "folle", "mou": "molle",
    "blanc": "blanche", "franc": "franche", "sec": "sèche", "frais": "fraîche", "doux": "douce",
    "roux": "rousse", "faux": "fausse", "long": "longue", "public": "publique", "grec": "grecque",
    "turc": "turque", "favori": "favorite", "travailleur": "travailleuse", "menteur": "menteuse",
    "rieur": "rieuse", "protecteur": "protectrice", "gentil": "gentille",
}  # fmt: skip
FEMININE_ENDINGS = (
    ("x", "se"), ("f", "ve"), ("er", "ère"), ("el", "elle"), ("eil", "eille"), ("en", "enne"),
    ("on", "onne"), ("et", "ette"), ("e", "e"),
)  # fmt: skip

OPPOSITES = (
    "grand/petit chaud/froid haut/bas long/court lourd/léger rapide/lent facile/difficile "
    "jeune/vieux riche/pauvre plein/vide propre/sale fort/faible dur/mou ouvert/fermé beau/laid "
    "bon/mauvais vrai/faux gai/triste content/mécontent heureux/malheureux possible/impossible "
    "utile/inutile visible/invisible poli/impoli patient/impatient prudent/imprudent "
    "juste/injuste connu/inconnu égal/inégal pair/impair parfait/imparfait capable/incapable "
    "certain/incertain complet/incomplet direct/indirect légal/illégal lisible/illisible "
    "logique/illogique régulier/irrégulier responsable/irresponsable mortel/immortel "
    "mobile/immobile moral/immoral honnête/malhonnête adroit/maladroit agréable/désagréable "
    "ordre/désordre obéissant/désobéissant premier/dernier intérieur/extérieur "
    "supérieur/inférieur positif/négatif actif/passif public/privé nord/sud est/ouest jour/nuit "
    "matin/soir été/hiver début/fin entrée/sortie achat/vente victoire/défaite amour/haine "
    "ami/ennemi paix/guerre vie/mort question/réponse départ/arrivée succès/échec montée/descente "
    "avantage/inconvénient addition/soustraction multiplication/division force/faiblesse "
    "vérité/mensonge monter/descendre entrer/sortir ouvrir/fermer acheter/vendre commencer/finir "
    "allumer/éteindre gagner/perdre aimer/détester accepter/refuser pousser/tirer rire/pleurer "
    "construire/détruire remplir/vider attacher/détacher avancer/reculer augmenter/diminuer "
    "apparaître/disparaître charger/décharger habiller/déshabiller toujours/jamais avant/après "
    "dessus/dessous devant/derrière dedans/dehors loin/près beaucoup/peu plus/moins tôt/tard "
    "vite/lentement bien/mal oui/non gauche/droite avec/sans pour/contre bruyant/silencieux "
    "généreux/avare courageux/lâche cru/cuit épais/mince étroit/large majuscule/minuscule "
    "singulier/pluriel masculin/féminin minimum/maximum absent/présent initial/final humide/sec "
    "rare/fréquent simple/compliqué naturel/artificiel urbain/rural optimiste/pessimiste "
    "majorité/minorité"
)

SMALL_NUMBERS = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize "
    "dix-sept dix-huit dix-neuf"
).split()
TENS = ("", "", "vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt")


def verbs() -> list[str]:
    """List the infinitives."""
    return f"{ER_VERBS} {IR_VERBS}".split()


def conjugate(verb: str, pronoun: str) -> str:
    """Give the present tense with its pronoun: nous chantons, j'aime."""
    endings = ER_ENDINGS if verb.endswith("er") else IR_ENDINGS
    form = verb[:-2] + endings[PRONOUNS.index(pronoun)]
    elided = pronoun == "je" and form[0] in "aeiouhéêâ"  # each listed h is silent
    return f"j'{form}" if elided else f"{pronoun} {form}"


def nouns() -> list[str]:
    """List the nouns, feminine ones first."""
    return f"{FEMININE_NOUNS} {MASCULINE_NOUNS}".split()


def plural(noun: str) -> str:
    """Give the plural of a listed noun."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun[-1] in "sxz":
        return noun
    if noun.endswith("al"):
        return noun[:-1] + "ux"
    return noun + ("x" if noun.endswith(("au", "eu", "œu")) else "s")


def adjectives() -> list[str]:
    """List the adjectives in the masculine."""
    return ADJECTIVES.split()


def feminine(adjective: str) -> str:
    """Give the feminine of a listed adjective."""
    if adjective in IRREGULAR_FEMININES:
        return IRREGULAR_FEMININES[adjective]
    for ending, replacement in FEMININE_ENDINGS:
        if adjective.endswith(ending):
            return adjective.removesuffix(ending) + replacement
    return adjective + "e"


def opposites() -> list[tuple[str, str]]:
    """List the pairs; no word is in two of them, and each answers the other."""
    pairs = [pair.split("/") for pair in OPPOSITES.split()]
    return [(left, right) for left, right in pairs]


def in_words(number: int) -> str:
    """Spell a number from 0 to 299 the traditional way: quatre-vingts, cent vingt et un."""
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        head = "cent" if hundreds == 1 else f"{SMALL_NUMBERS[hundreds]} cent"
        plural_mark = "s" if hundreds > 1 and rest == 0 else ""
        return f"{head}{plural_mark}" + (f" {in_words(rest)}" if rest else "")
    if number < 20:
        return SMALL_NUMBERS[number]
    tens = min(number // 10, 8)
    rest = number - 10 * (6 if tens == 7 else tens)
    if number == 80:
        return "quatre-vingts"
    if rest == 0:
        return TENS[tens]
    joint = " et " if rest in (1, 11) and tens < 8 else "-"
    return f"{TENS[tens]}{joint}{SMALL_NUMBERS[rest]}"
