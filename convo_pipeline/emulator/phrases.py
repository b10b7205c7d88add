"""What invented customers and invented businesses say to each other, as data.

A scene is (question, answer). `CHATTER_OF_…` and `THANKS` are of any business.
"""

from collections.abc import Mapping
from types import MappingProxyType

Scenes = tuple[tuple[str, str], ...]

LOCALES: Mapping[str, str] = MappingProxyType(
    {
        "de": "de_DE",
        "en": "en_GB",
        "fr": "fr_FR",
        "es": "es_ES",
        "tr": "tr_TR",
        "ar": "ar_SA",
        "ja": "ja_JP",
        "it": "it_IT",
        "he": "he_IL",
        "uk": "uk_UA",
    }
)
WEIGHTS: Mapping[str, int] = MappingProxyType(
    {"de": 40, "en": 18, "fr": 9, "es": 8, "tr": 8, "ar": 5, "ja": 4, "it": 4, "he": 2, "uk": 2}
)

BAKERY: Mapping[str, Scenes] = MappingProxyType(
    {
        "de": (
            ("Habt ihr am Sonntag offen?", "Ja, sonntags von 8 bis 12 Uhr 🥐"),
            (
                "Kann ich eine Torte für Samstag bestellen?",
                "Gerne! Für wie viele Personen soll sie sein?",
            ),
            ("Gibt es das Roggenbrot auch geschnitten?", "Klar, sagt es einfach an der Theke."),
            (
                "Sind in den Zimtschnecken Nüsse?",
                "Nein, aber sie werden in derselben Backstube gebacken.",
            ),
            ("Wie lange hält sich euer Sauerteigbrot?", "In Papier gewickelt gut fünf Tage."),
            ("Verkauft ihr Gutscheine?", "Ja, ab 10 €, direkt im Laden."),
            ("Was kostet ein Blech Zwetschgendatschi?", "Ein ganzes Blech 38 €, ein halbes 20 €."),
            (
                "Ich hätte gern 30 Brezeln für Freitag um 7, geht das?",
                "Geht! Auf welchen Namen dürfen wir sie richten?",
            ),
        ),
        "en": (
            ("Hi, are you open on Sunday?", "Good morning! Yes, 8 to 12 on Sundays 🥐"),
            ("Do you have gluten-free bread?", "On Tuesdays and Fridays, best to reserve one."),
            (
                "Could you do a birthday cake for 12 people by Saturday?",
                "We'd love to. Chocolate, lemon or carrot?",
            ),
            ("How much is the big sourdough?", "7.20 € for the two-pound loaf."),
            ("Do you deliver?", "Within the city for orders over 40 €, yes."),
            ("Is there dairy in the rye rolls?", "No dairy, no egg. Enjoy!"),
        ),
        "fr": (
            (
                "Bonjour, faites-vous des gâteaux sans œufs ?",
                "Bonjour ! Oui, sur commande, deux jours à l’avance.",
            ),
            (
                "Vous êtes ouverts le lundi de Pentecôte ?",
                "Non, nous serons de retour mardi dès 7 h.",
            ),
            ("Il vous reste des croissants ?", "Encore une douzaine, on vous en garde ?"),
            ("C’est possible de commander 20 mini-quiches ?", "Bien sûr, pour quel jour ?"),
        ),
        "es": (
            ("Hola, ¿tenéis pan sin gluten?", "¡Hola! Los martes y viernes, mejor reservarlo."),
            ("¿A qué hora abrís el domingo?", "De 8 a 12. ¡Te esperamos!"),
            ("¿Hacéis tartas para niños? 🎂", "Sí, cuéntanos el tema y para cuántos."),
            ("¿Cuánto cuesta la tarta de queso?", "Entera 28 €, la porción 3,50 €."),
        ),
        "tr": (
            ("Merhaba, pazar günü açık mısınız?", "Merhaba! Evet, 8'den 12'ye kadar 🙂"),
            ("Doğum günü pastası yapıyor musunuz?", "Tabii, kaç kişilik olsun?"),
            ("Simit kaçta çıkıyor?", "Her sabah yedide fırından çıkıyor."),
        ),
        "ar": (
            ("مرحبا، هل أنتم مفتوحون يوم الأحد؟", "أهلاً! نعم من الساعة 8 حتى 12 🥐"),
            ("هل لديكم خبز بدون غلوتين؟", "نعم، أيام الثلاثاء والجمعة."),
            ("بكم كعكة الشوكولاتة؟", "الكبيرة بـ 32 يورو، والصغيرة بـ 18."),
        ),
        "ja": (
            ("日曜日は営業していますか？", "はい、8時から12時までです🥐"),
            ("食パンの予約はできますか？", "もちろんです。お名前をお願いします。"),
            ("アレルギー表示はありますか？", "すべての商品に表示しております。"),
        ),
        "it": (
            ("Ciao, fate il panettone anche a novembre?", "Ciao! Dal 15 novembre, sì 🎄"),
            ("Avete focaccia oggi?", "Sì, appena sfornata!"),
        ),
        "he": (("שלום, אתם פתוחים בשבת?", "שלום! בשבת אנחנו סגורים, ביום ראשון מ-8."),),
        "uk": (
            ("Добрий день, чи є у вас житній хліб?", "Добрий день! Так, щодня з восьмої ранку."),
        ),
    }
)

BIKES: Mapping[str, Scenes] = MappingProxyType(
    {
        "de": (
            (
                "Mein Hinterrad hat eine Acht, könnt ihr das richten?",
                "Ja, meist bis zum nächsten Tag. Bring es einfach vorbei.",
            ),
            ("Habt ihr Kindersitze zum Ausprobieren?", "Drei Modelle stehen im Laden."),
            ("Wann ist mein Rad fertig?", "Morgen ab 15 Uhr kannst du es holen."),
            ("Was kostet eine Inspektion?", "69 € ohne Teile, dauert etwa zwei Tage."),
            (
                "Repariert ihr auch E-Bikes von anderen Herstellern?",
                "Bosch und Shimano ja, andere leider nicht.",
            ),
            ("Kann man bei euch ein Lastenrad leihen?", "Ja, 29 € am Tag, 150 € Kaution."),
            ("Passt ein 28-Zoll-Reifen auf meine Felge? 700x35C", "Das ist dieselbe Größe, passt."),
        ),
        "en": (
            ("Do you rent bikes by the week?", "We do, 75 € for a city bike including a lock."),
            ("My brakes squeak like crazy 😩", "Bring it in, usually it takes ten minutes."),
            (
                "Is the blue gravel bike still there?",
                "Yes, size M and L. Shall we keep one for you?",
            ),
            ("Can you ship a frame to Ireland?", "We can, it would be 49 €."),
            ("What are your opening hours?", "Mon-Fri 9 to 18, Saturday 10 to 14."),
        ),
        "fr": (
            ("Bonjour, réparez-vous les vélos électriques ?", "Bonjour, oui, Bosch et Shimano."),
            ("Combien coûte une révision ?", "69 € sans les pièces."),
            ("Mon vélo est-il prêt ?", "Oui, vous pouvez passer dès 15 h 🚲"),
        ),
        "es": (
            ("¿Alquiláis bicicletas por horas?", "Mínimo medio día, 12 €."),
            ("¿Tenéis cascos para niños?", "Sí, desde la talla XXS."),
            ("¿Está lista mi bici?", "Mañana a partir de las 15 h."),
        ),
        "tr": (
            ("Bisikletim ne zaman hazır olur?", "Yarın saat 15'ten sonra alabilirsiniz."),
            ("Lastik değişimi ne kadar?", "İşçilik 12 €, lastik ayrı."),
        ),
        "ar": (
            ("هل تؤجرون الدراجات يومياً؟", "نعم، 18 يورو في اليوم مع القفل."),
            ("متى تكون دراجتي جاهزة؟", "غداً بعد الثالثة عصراً إن شاء الله."),
        ),
        "ja": (
            ("パンク修理はいくらですか？", "12ユーロからです。"),
            ("電動自転車の試乗はできますか？", "はい、平日ならいつでもどうぞ🚲"),
        ),
        "it": (
            ("Noleggiate cargo bike?", "Sì, 29 € al giorno."),
            ("Fate anche vendita usato?", "Sì, garantito un anno."),
        ),
        "he": (("כמה עולה החלפת שרשרת?", "20 אירו כולל עבודה."),),
        "uk": (("Чи можна взяти велосипед на тиждень?", "Так, 75 € разом із замком."),),
    }
)

CHATTER_OF_CUSTOMERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "de": (
            "Alles klar",
            "Und geht das auch mit Karte?",
            "Noch eine Frage…",
            "Habt ihr davon vielleicht ein Foto?",
            "Hm, dann lieber doch am Mittwoch",
            "Ok 👍",
            "Ich komme dann gegen fünf vorbei",
        ),
        "en": (
            "Sounds good",
            "Can I pay by card?",
            "Just one more thing…",
            "Did you get my last message?",
            "Perfect 👌🏽",
            "Could you send me a picture?",
            "I'll be there around five",
        ),
        "fr": (
            "Très bien",
            "On peut payer par carte ?",
            "D’accord 👍🏼",
            "Vous auriez une photo ?",
            "Encore une petite question",
        ),
        "es": (
            "Vale",
            "¿Se puede pagar con tarjeta?",
            "¡Genial!",
            "¿Me mandáis una foto?",
            "Una cosa más…",
        ),
        "tr": (
            "Tamam",
            "Kartla ödeyebilir miyim?",
            "Bir fotoğraf atabilir misiniz?",
            "Bir sorum daha var",
        ),
        "ar": (
            "تمام",
            "هل يمكن الدفع بالبطاقة؟",
            "ممتاز 👍",
            "هل يمكن إرسال صورة؟",
        ),
        "ja": (
            "わかりました",
            "カードは使えますか？",
            "写真はありますか？",
            "もう一つ質問があります",
        ),
        "it": (
            "Va bene",
            "Si può pagare con la carta?",
            "Avete una foto?",
            "Perfetto 👍",
        ),
        "he": (
            "מעולה",
            "אפשר לשלם באשראי?",
            "יש לכם תמונה?",
        ),
        "uk": (
            "Добре",
            "Можна карткою?",
            "Маєте фото?",
        ),
    }
)

CHATTER_OF_OURS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "de": (
            "Moment, ich schaue kurz nach",
            "Wir melden uns gleich.",
            "Karte geht ab 10 €.",
            "Gerne, bis später!",
            "Kein Problem 🙂",
            "Ist notiert!",
        ),
        "en": (
            "One second, let me check",
            "No problem at all",
            "Card is fine from 10 €.",
            "Great, see you then!",
            "Let's say 5 pm?",
            "Noted!",
        ),
        "fr": (
            "Un instant, je vérifie",
            "Bien sûr, la carte est acceptée.",
            "Parfait, à tout à l’heure !",
            "C’est noté",
        ),
        "es": (
            "Un momento, lo miro",
            "Con tarjeta a partir de 10 €.",
            "Perfecto, ¡hasta luego!",
            "Apuntado 🙂",
        ),
        "tr": (
            "Bir saniye, bakıyorum",
            "Kart geçerli 👍🏻",
            "Not aldım, görüşürüz!",
        ),
        "ar": (
            "لحظة من فضلك",
            "نعم، البطاقة مقبولة",
            "أهلاً وسهلاً بك",
        ),
        "ja": (
            "少々お待ちください",
            "カードもご利用いただけます",
            "お待ちしております😊",
        ),
        "it": (
            "Un attimo che guardo",
            "La carta va bene da 10 €.",
            "A dopo!",
        ),
        "he": (
            "רק רגע, בודק",
            "כן, אפשר באשראי",
            "נתראה!",
        ),
        "uk": (
            "Хвилинку, перевірю",
            "Так, картка підходить",
            "Чекаємо на вас!",
        ),
    }
)

THANKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "de": ("Vielen Dank! 🙏", "Danke euch ❤️", "Perfekt, danke!"),
        "en": ("Thank you so much! 🙏🏾", "Thanks, you're the best", "Lovely, cheers!"),
        "fr": ("Merci beaucoup 🧁", "Merci, bonne journée !"),
        "es": ("¡Muchas gracias! 😊", "Gracias 🙌"),
        "tr": ("Çok teşekkürler 🌸", "Sağ olun!"),
        "ar": ("شكراً لكم 🌹", "بارك الله فيكم"),
        "ja": ("ありがとうございます🙇‍♀️", "助かりました！"),
        "it": ("Grazie mille! 🥰",),
        "he": ("תודה רבה! 🙏",),
        "uk": ("Дякую! 💛💙",),
    }
)

ODDITIES: tuple[str, ...] = (
    "👩‍👩‍👧‍👦 we are a table of four, 👩🏽‍🍳 said it's fine 🏳️‍🌈",
    "Line one\nline two\n\n\tindented, and a trailing space ",
    "‏السعر 25€ للقطعة (x3) — ok?",
    "É vs É: composed and decomposed",
    "=SUM(A1:A3) is what my invoice says, plus \"quotes\", 'apostrophes' and \\backslashes\\",
    "𝓕𝓪𝓷𝓬𝔂 𝓽𝓮𝔁𝓽 and zero​width and nbsp",
    "ok " * 120 + "— sorry, my child had the phone 🙈",
)
"""Texts that break careless code; each is something people really send."""

AUTOMATIC: Mapping[str, str] = MappingProxyType(
    {
        "de": "Danke für deine Nachricht! Wir antworten, sobald das Mehl von den Händen ist.",
        "en": "Thanks for your message! We'll answer as soon as we can.",
        "fr": "Merci pour votre message ! Nous répondons au plus vite.",
        "es": "¡Gracias por tu mensaje! Respondemos lo antes posible.",
        "tr": "Mesajınız için teşekkürler! En kısa sürede döneceğiz.",
        "ar": "شكراً لرسالتكم! سنرد في أقرب وقت.",
        "ja": "メッセージありがとうございます。順次お返事いたします。",
        "it": "Grazie per il messaggio! Rispondiamo appena possibile.",
        "he": "תודה על ההודעה! נחזור אליכם בהקדם.",
        "uk": "Дякуємо за повідомлення! Відповімо якнайшвидше.",
    }
)
